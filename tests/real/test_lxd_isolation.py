"""Containers of LXD that try, as root, to reach what they must not. What libvirt's try is in test_isolation.py."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec
import pytest

from hostler.network import NetworkAccess, NetworkPolicy
from providers.contract import HypervisorUnavailable, InstanceSpec
from providers.lxd import LxdProvider
from providers.lxd.request import CONTAINERS
from tests.providers.adapter import ignore
from tests.real.conftest import spec
from tests.real.lxd import Daemon
from tests.real.surroundings import METADATA, PORT, PRIVATE, PUBLIC, listeners, run

pytestmark = pytest.mark.real

SEED: Final = "/var/lib/cloud/seed/nocloud"
RUNS_ITS_USER_DATA: Final = f"""\
#!/bin/sh
. {SEED}/hostler.env
ip address add "$HOSTLER_ADDRESS" dev eth0
ip link set eth0 up
ip route add default via "$HOSTLER_GATEWAY"
mkdir /tmp/told
sh {SEED}/user-data
while :; do cat /tmp/told/*; echo "all tried as $(id -u)"; sleep 1; done
"""
SERVES: Final = f"mkdir /tmp/w; echo served >/tmp/w/index.html; httpd -p {PORT} -h /tmp/w\n"


@pytest.fixture
async def provider(lxd_daemon: Daemon, tmp_path: Path) -> AsyncIterator[LxdProvider]:
    if "tries" not in lxd_daemon.aliases():
        lxd_daemon.import_container("tries", {"sbin/init": RUNS_ITS_USER_DATA})
    one = LxdProvider(lxd_daemon.settings, tmp_path / "instances")
    await one.open(lambda _: None)
    try:
        with listeners(str(lxd_daemon.settings.gateway)):
            yield one
    finally:
        for machine in await one.inventory():
            await one.delete(machine.instance_id)
        await one.close()


def container(user_data: str, policy: NetworkPolicy, *allow: str) -> InstanceSpec:
    wanted = msgspec.structs.replace(spec("tries"), driver=CONTAINERS, network=NetworkAccess(policy, allow))
    told = msgspec.structs.replace(wanted.bootstrap, user_data=user_data.encode())
    return msgspec.structs.replace(wanted, bootstrap=told)


def page(address: object) -> str:
    return f"wget -q -O - http://{address}:{PORT}/"


async def reached(provider: LxdProvider, probes: dict[str, str], policy: NetworkPolicy, *allow: str) -> set[str]:
    """Those that went well, of all at once."""
    lines = [
        f"(if timeout 8 sh -c '{command}' >/dev/null 2>&1; then echo {name}: reached; else echo {name}: closed; fi"
        f" >/tmp/told/{name}) &\n"
        for name, command in probes.items()
    ]
    wanted = container(f"{''.join(lines)}wait\n", policy, *allow)
    await provider.create(wanted, ignore)
    found: dict[str, str] = {}
    said = ""
    # LXD keeps nothing of what a container says in its first moments, so it says it again and again.
    async with asyncio.timeout(60):
        while set(found) != set(probes) or "all tried as 0" not in said:
            await asyncio.sleep(0.05)
            said = (await provider.console(wanted.instance_id, 100_000))[0].decode()
            found = dict(line.strip().split(": ") for line in said.splitlines() if line.endswith(("reached", "closed")))
    await provider.delete(wanted.instance_id)
    return {name for name, how in found.items() if how == "reached"}


async def test_a_container_reaches_neither_its_neighbour_nor_its_host_nor_what_is_private(
    provider: LxdProvider, lxd_daemon: Daemon
) -> None:
    """The public page is reached by the same words; the neighbour's page answers its host."""
    server = container(SERVES, NetworkPolicy.OPEN)
    await provider.create(server, ignore)
    neighbour = lxd_daemon.address(server.name)
    async with asyncio.timeout(30):
        while await _curl(f"http://{neighbour}:{PORT}/") != "served\n":
            await asyncio.sleep(0.1)
    gateway = lxd_daemon.settings.gateway
    probes = {
        "public": page(PUBLIC),
        "neighbour_tcp": page(neighbour),
        "neighbour_ping": f"ping -c 2 -W 2 {neighbour}",
        "neighbour_arp": f"arping -f -c 2 -w 3 -I eth0 {neighbour}",
        "host_tcp": page(gateway),
        "host_ping": f"ping -c 2 -W 2 {gateway}",
        "metadata": page(METADATA),
        "private": page(PRIVATE),
    }
    assert await reached(provider, probes, NetworkPolicy.INTERNET) == {"public"}
    # Not even where all is open, and the way to it named: what is closed always, no pool opens.
    everything = await reached(provider, probes, NetworkPolicy.OPEN, "10.0.0.0/8", f"{neighbour}:{PORT}")
    assert everything == {"public", "private"}


async def test_policies_open_to_containers_what_they_say(provider: LxdProvider, lxd_daemon: Daemon) -> None:
    gateway = lxd_daemon.settings.gateway
    probes = {"public": page(PUBLIC), "private": page(PRIVATE), "host": page(gateway), "metadata": page(METADATA)}
    allowed = {
        "strict": (NetworkPolicy.STRICT, ()),
        "public": (NetworkPolicy.STRICT, (f"{PUBLIC}:{PORT}",)),
        "wide": (NetworkPolicy.STRICT, ("0.0.0.0/0",)),
        "named": (
            NetworkPolicy.INTERNET,
            (f"{METADATA}:{PORT}", f"{PRIVATE}/31:{PORT}", f"{gateway}:{PORT}"),
        ),
    }
    found = {name: await reached(provider, probes, policy, *allow) for name, (policy, allow) in allowed.items()}
    assert found == {"strict": set(), "public": {"public"}, "wide": {"public", "private"}, "named": set(probes)}


async def test_containers_are_held_though_lxd_does_not_answer(
    provider: LxdProvider, lxd_daemon: Daemon, tmp_path: Path
) -> None:
    table = lxd_daemon.settings.isolated.table
    await provider.create(container("", NetworkPolicy.INTERNET), ignore)
    before = _rules(table)
    assert "direct-action" in run("tc", "filter", "show", "dev", lxd_daemon.settings.network, "ingress")
    await provider.close()
    for family in ("bridge", "inet"):
        run("nft", "delete", "table", family, table)
    unanswered = msgspec.structs.replace(lxd_daemon.settings, socket=str(tmp_path / "nobody"))
    with pytest.raises(HypervisorUnavailable):
        await LxdProvider(unanswered, tmp_path / "instances").open(lambda _: None)
    assert _rules(table) == before
    await provider.open(lambda _: None)
    assert _rules(table) == before


def _rules(table: str) -> list[str]:
    return [run("nft", "--stateless", "list", "table", family, table) for family in ("bridge", "inet")]


async def _curl(url: str) -> str:
    try:
        return await asyncio.to_thread(run, "curl", "-s", "-m", "3", url)
    except Exception:  # noqa: BLE001 - it does not listen yet; the caller's limit ends it
        return ""
