"""What an agent with LXD costs on its host. The daemon is the benchmark's own."""

import asyncio
from pathlib import Path

from tests.bench.host import at_rest
from tests.bench.host_agent import Driver, host_agent
from tests.bench.results import Result, shown
from tests.real.lxd import NETWORK, SUBNET, Daemon, daemon, import_images

_AT_ONCE = 4


async def run(folder: Path) -> list[Result]:
    with daemon() as lxd:
        await asyncio.to_thread(import_images, lxd)
        async with host_agent(folder, Driver("lxd-container", "stays", _tables(lxd))) as agent:
            rest = await at_rest("agent with LXD", agent, 80)
            for instance_id, _ in await asyncio.gather(*(agent.create() for _ in range(_AT_ONCE))):
                await agent.delete(instance_id)
            later = shown(f"agent with LXD, {_AT_ONCE} containers later, RSS", agent.holds().rss_mib, "MiB")
        return [*rest, later]


def _tables(lxd: Daemon) -> str:
    return f'[lxd]\nsocket = "{lxd.socket}"\nnetwork = "{NETWORK}"\nsubnet = "{SUBNET}"\n'
