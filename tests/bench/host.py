"""What an agent costs on its host, how fast it makes and destroys machines, and what is left after many of them.

The machines of `agent` are real: QEMU by libvirt. Their guest is a boot sector that halts, so that the agent's own part
shows.
"""

import asyncio
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from providers.isolation import Firewall
from providers.libvirt.settings import LibvirtSettings
from tests.bench import host_floor
from tests.bench.host_agent import Driver, Holds, HostAgent, host_agent
from tests.bench.machine import cpu_seconds
from tests.bench.processes import ROOT
from tests.bench.results import Result, at_most, percentile, shown
from tests.real.boot_sectors import boot_sector

_REST_SECONDS: Final = 30.0
_AT_ONCE: Final = 10
_WARM_UP: Final = 3
_CYCLES: Final = 30
_SIMULATED_CYCLES: Final = 200
_SIMULATED_WARM_UP: Final = 100
_GROWTH_MIB: Final = 1.0
"""Of a heap whose pages are never full: what leaks grows with each cycle, and is over this after a few."""

_NETWORK: Final = "hostler-bench"
_SUBNET: Final = "10.218.0.0/24"
_SETTINGS: Final = LibvirtSettings(network=_NETWORK, subnet=_SUBNET)


async def run(folder: Path) -> list[Result]:
    """The libvirt provider."""
    await asyncio.to_thread(start_libvirt)
    image = folder / "halts.img"
    image.write_bytes(boot_sector("halts"))
    try:
        async with host_agent(folder, Driver("libvirt", "halts", libvirt_tables("halts", image))) as agent:
            rest = await at_rest("agent with libvirt", agent, 60)
            times = await _times(agent)
            floor = await asyncio.to_thread(host_floor.measure, folder / "floor", image, _SETTINGS, _AT_ONCE)
            growth = await _growth("agent with libvirt", agent, _CYCLES, _on_host)
        return [*rest, *times, *floor, *growth]
    finally:
        await asyncio.to_thread(remove_network)


async def run_simulated(folder: Path) -> list[Result]:
    tables = '[simulated]\nimages = ["bench"]\ndisk_seconds = 0.0\nstart_seconds = 0.0\n'
    async with host_agent(folder, Driver("simulated", "bench", tables)) as agent:
        await asyncio.gather(*(_cycles(agent, _SIMULATED_WARM_UP // _AT_ONCE) for _ in range(_AT_ONCE)))
        return await _growth("agent, simulated machines", agent, _SIMULATED_CYCLES, dict)


async def at_rest(name: str, agent: HostAgent, most_mib: float) -> list[Result]:
    began, cpu = time.monotonic(), cpu_seconds(agent.pid)
    await asyncio.sleep(_REST_SECONDS)
    share = (cpu_seconds(agent.pid) - cpu) / (time.monotonic() - began)
    return [
        at_most(f"{name}, at rest, RSS", agent.holds().rss_mib, "MiB", most_mib),
        at_most(f"{name}, at rest, CPU", share * 100, "% of a core", 0.5),
    ]


async def _times(agent: HostAgent) -> list[Result]:
    creates, deletes = await _cycles(agent, _WARM_UP + _AT_ONCE)
    together = await asyncio.gather(*(agent.create() for _ in range(_AT_ONCE)))
    together_deletes = await asyncio.gather(*(agent.delete(instance_id) for instance_id, _ in together))
    name = "agent with libvirt"
    return [
        at_most(f"{name}, CreateInstance to QEMU started, p50", 1000 * percentile(creates[_WARM_UP:], 50), "ms", 300),
        at_most(f"{name}, the same, {_AT_ONCE} at once, worst", 1000 * max(took for _, took in together), "ms", 600),
        at_most(f"{name}, destroy, p50", 1000 * percentile(deletes[_WARM_UP:], 50), "ms", 500),
        shown(f"{name}, destroy, {_AT_ONCE} at once, worst", 1000 * max(together_deletes), "ms"),
    ]


async def _cycles(agent: HostAgent, count: int) -> tuple[list[float], list[float]]:
    creates, deletes = [], []
    for _ in range(count):
        instance_id, took = await agent.create()
        creates.append(took)
        deletes.append(await agent.delete(instance_id))
    return creates, deletes


async def _growth(name: str, agent: HostAgent, cycles: int, on_host: Callable[[], dict[str, int]]) -> list[Result]:
    """What more there is after so many machines than before."""
    before, host_before = agent.holds(), await asyncio.to_thread(on_host)
    await _cycles(agent, cycles)
    after, host_after = agent.holds(), await asyncio.to_thread(on_host)
    told = f"{name}, {cycles} machines later"
    counted = {what: getattr(after, what) - getattr(before, what) for what in Holds.__struct_fields__[1:]}
    counted |= {what: host_after[what] - host_before[what] for what in host_after}
    return [
        at_most(f"{told}, more memory", after.rss_mib - before.rss_mib, "MiB", _GROWTH_MIB),
        shown(f"{told}, RSS", after.rss_mib, "MiB"),
        *(at_most(f"{told}, more {what}", more, what, 0) for what, more in counted.items()),
    ]


def _on_host() -> dict[str, int]:
    """Counts of what machines leave behind on a host."""
    domains = subprocess.run(["virsh", "list", "--all", "--uuid"], check=True, capture_output=True, text=True).stdout
    rules = subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
    return {
        "domains": len(domains.split()),
        "interfaces": sum(1 for _ in Path("/sys/class/net").iterdir()),
        "nft lines": len(rules.splitlines()),
        "QEMU logs": sum(1 for _ in Path("/var/log/libvirt/qemu").glob("*.log")),
    }


def start_libvirt() -> None:
    subprocess.run([ROOT / "packaging" / "libvirt-up"], check=True, timeout=120)


def libvirt_tables(image: str, path: Path) -> str:
    return (
        f'[libvirt]\nacceleration = "tcg"\nnetwork = "{_NETWORK}"\nsubnet = "{_SUBNET}"\n'
        f'[[image]]\nname = "{image}"\npath = "{path}"\n'
    )


def remove_network() -> None:
    subprocess.run(["virsh", "net-destroy", _NETWORK], check=False, capture_output=True)
    Firewall(_SETTINGS.isolated).remove()
