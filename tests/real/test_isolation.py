"""Machines that try, as root, to reach what they must not; and the rules that hold them, put in place and put back."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from hostler.network import NetworkAccess, NetworkPolicy
from providers.addresses import mac_address
from providers.contract import ProviderError
from providers.isolation import Coordinator, Firewall, nft, port_name
from providers.libvirt import domains
from providers.libvirt.domain import DomainPlan
from providers.libvirt.store import Store
from tests.demo.configs import pool_toml
from tests.demo.farm import REPOSITORY
from tests.demo.run import bring_up_network
from tests.demo.traces import rules
from tests.real.conftest import SETTINGS, Opener, spec
from tests.real.surroundings import METADATA, PORT, PRIVATE, PUBLIC, Counts, listeners, run
from tests.real.world import World, open_world

pytestmark = pytest.mark.real

TABLE: Final = SETTINGS.isolated.table
GATEWAY: Final = str(SETTINGS.gateway)

# As root, and all at once: each line says whether something was reached.
PROBES: Final = """
probe() {
  if su -c "timeout $2 sh -c '$3'" >/dev/null 2>&1; then echo "$1: reached"; else echo "$1: closed"; fi
}
su -c id
"""


@pytest.fixture
async def world(libvirt_up: None, test_guest: None, tmp_path: Path) -> AsyncIterator[World]:  # noqa: ARG001
    await asyncio.to_thread(bring_up_network, SETTINGS)
    with listeners():
        async with open_world(tmp_path / "farm") as one:
            yield one


def page(address: object) -> str:
    return f"wget -q -O - http://{address}:{PORT}/"


def script(open_ones: set[str], **probes: str) -> str:
    """What is to be reached has long for it, on whatever machine; what is closed takes all the time it is given."""
    limits = {name: 40 if name in open_ones else 5 for name in probes}
    lines = [f'probe {name} {limits[name]} "{command}" &\n' for name, command in probes.items()]
    return f"{PROBES}{''.join(lines)}wait\n"


def reached(log: str, *names: str) -> set[str]:
    found = dict(line.split(": ") for line in log.splitlines() if line.endswith((": reached", ": closed")))
    assert "uid=0" in log
    assert set(found) == set(names)
    return {name for name, how in found.items() if how == "reached"}


async def probed(world: World, open_ones: set[str], **probes: str) -> set[str]:
    job = await world.queue(script(open_ones, **probes))
    return reached((await world.ended(job))["log"], *probes)


async def test_a_machine_reaches_neither_its_neighbour_nor_its_host_nor_what_is_private(world: World) -> None:
    """The forge and the runner API are reached, or there would be no job; the neighbour's page answers its host."""
    served = await world.queue(
        f"mkdir www && echo served >www/index.html && busybox httpd -p {PORT} -h www && {world.gate.wait('server')}"
    )
    await world.gate.reached("server")
    (server,) = world.records()
    assert "served" in await asyncio.to_thread(run, "curl", "-s", "-m", "5", f"http://{server.address}:{PORT}/")
    host_mac = run("cat", f"/sys/class/net/{SETTINGS.bridge}/address").strip()

    open_ones = {"public", "names"}
    found = await probed(
        world,
        open_ones,
        public=page(PUBLIC),
        names=f"nslookup -type=a localhost {GATEWAY}",
        neighbour_ping=f"ping -c 2 -W 2 {server.address}",
        neighbour_arp=f"arping -f -c 2 -w 3 -I eth0 {server.address}",
        neighbour_tcp=page(server.address),
        host_tcp=page(GATEWAY),
        host_ping=f"ping -c 2 -W 2 {GATEWAY}",
        metadata=page(METADATA),
        private=page(PRIVATE),
    )

    assert found == open_ones
    # Without asking who has the address: straight to its port, and by way of the host's routing.
    for mac in (mac_address(server.ip), host_mac):
        told = f"arp -s {server.address} {mac}; {page(server.address)}"
        assert await probed(world, set(), neighbour=told) == set()
    world.gate.open("server")
    await world.ended(served)
    await world.gone()


async def test_a_machine_sends_under_no_address_but_its_own(world: World) -> None:
    address, mac = SETTINGS.addresses[2], mac_address(SETTINGS.addresses[2])
    other, other_mac = SETTINGS.addresses[77], "52:54:00:00:00:77"
    spoofed = f"""
        ping -c 2 -W 1 {GATEWAY}
        ip address add {other}/24 dev eth0
        ping -c 2 -W 1 -I {other} {GATEWAY}
        arping -U -c 2 -w 2 -I eth0 -s {other} {other}
        ip address del {other}/24 dev eth0
        ip link set eth0 down
        ip link set eth0 address {other_mac}
        ip link set eth0 up
        ping -c 2 -W 1 {GATEWAY}
        arping -c 2 -w 2 -I eth0 {GATEWAY}
        ip link set eth0 down
        ip link set eth0 address {mac}
        ip link set eth0 up
        ip route add default via {GATEWAY}
        echo done
    """
    counts = Counts(own=f"ip saddr {address}", spoofed=f"ip saddr {other}", otherwise=f"ether saddr {other_mac}")
    with closing(counts):
        log = await world.succeeded(await world.queue(f"su -c '{spoofed}'"))
        assert "done" in log
        assert counts.seen("own") > 2
        assert (counts.seen("spoofed"), counts.seen("otherwise")) == (0, 0)
    neighbours = run("ip", "neighbour", "show", "dev", SETTINGS.bridge)
    assert str(other) not in neighbours
    assert other_mac not in neighbours


async def test_policies_open_what_they_say(world: World) -> None:
    """A wide entry opens the networks in it, and neither the host nor metadata; those only an entry of their own."""
    forge = f"{GATEWAY}:{world.farm.ports.forge}"
    pools = {
        "strict": ("strict", [forge, f"{PUBLIC}:{PORT}"]),
        "open": ("open", [forge]),
        "wide": ("strict", [forge, "0.0.0.0/0"]),
        "named": ("internet", [forge, f"{METADATA}:{PORT}", f"{PRIVATE}/31:{PORT}", f"{GATEWAY}:{PORT}"]),
    }
    await declare(world, pools)
    probes = {
        "public": page(PUBLIC),
        "names": f"nslookup -type=a localhost {GATEWAY}",
        "private": page(PRIVATE),
        "host": page(GATEWAY),
        "metadata": page(METADATA),
    }
    open_ones = {
        "strict": {"public"},
        "open": {"public", "names", "private"},
        "wide": {"public", "private"},
        "named": set(probes),
    }
    jobs = {name: await world.queue(script(open_ones[name], **probes), labels=("self-hosted", name)) for name in pools}
    found = {name: reached((await world.ended(job))["log"], *probes) for name, job in jobs.items()}
    await world.gone()
    assert found == open_ones


async def declare(world: World, pools: dict[str, tuple[str, list[str]]]) -> None:
    document = "".join(
        pool_toml(world.farm, REPOSITORY, name, ("self-hosted", name), policy, allow)
        for name, (policy, allow) in pools.items()
    )
    file = world.farm.places.folder / "pools.toml"
    file.write_text(document)
    await world.hostler("apply", str(file))


# --- the rules ---


def senders() -> list[str]:
    """The ports that are admitted, as the kernel has them."""
    listed = run("nft", "-j", "list", "set", "bridge", TABLE, "senders")
    found: Any = next(one["set"] for one in msgspec.json.decode(listed)["nftables"] if "set" in one)
    return sorted(element["concat"][0] for element in found.get("elem", []))


async def until_back(before: str) -> None:
    async with asyncio.timeout(10):
        while await asyncio.to_thread(rules) != before:
            await asyncio.sleep(0.01)


async def test_rules_are_there_before_a_machine_starts_and_gone_with_it(
    open_provider: Opener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider = await open_provider()
    before = rules()
    at_start: list[list[str]] = []
    start = domains.Starter.start

    def started(starter: domains.Starter, conn: Any, plan: DomainPlan) -> None:
        at_start.append(senders())
        assert not Path("/sys/class/net", *at_start[-1]).exists()
        start(starter, conn, plan)

    monkeypatch.setattr(domains.Starter, "start", started)
    wanted = spec()
    await provider.create(wanted, lambda _: None)
    (record,) = Store(tmp_path / "instances").records()
    name = port_name(SETTINGS.isolated, record.ip)
    assert at_start == [[name]]
    assert name in run("ip", "-brief", "link")
    await provider.delete(wanted.instance_id)
    assert senders() == []
    assert rules() == before


async def test_the_coordinator_is_closed_and_the_gate_too_also_after_the_agents_end(open_provider: Opener) -> None:
    """By what the rules say; what comes of it is in test_isolation_flushed.py."""
    names = {"coordinator.example:9998": ["198.41.0.5"], "moved.example:9998": ["198.41.0.6"]}
    called = iter(names)
    provider = await open_provider(coordinator=Coordinator(lambda: next(called), lambda host: names[f"{host}:9998"]))
    await provider.create(spec(url="http://198.41.0.7:9996"), lambda _: None)
    await provider.create(spec(url="http://198.41.0.7:9996"), lambda _: None)
    await provider.close()
    await open_provider()
    listed = run("nft", "-j", "list", "set", "inet", TABLE, "coordinator")
    found: Any = next(one["set"] for one in msgspec.json.decode(listed)["nftables"] if "set" in one)
    assert sorted(found["elem"]) == ["198.41.0.5", "198.41.0.6", "198.41.0.7"]
    assert "direct-action" in run("tc", "filter", "show", "dev", SETTINGS.bridge, "ingress")


@pytest.mark.parametrize("damage", ["delete table bridge", "delete table inet", "flush table inet"])
async def test_rules_that_somebody_takes_away_are_put_back(open_provider: Opener, damage: str) -> None:
    provider = await open_provider()
    await provider.create(spec(), lambda _: None)
    before = rules()
    await asyncio.to_thread(run, "nft", *damage.split(), TABLE)
    await until_back(before)


FLUSHED: Final = """
import asyncio, subprocess, time
from providers.isolation import Firewall, Watch
from tests.real.conftest import SETTINGS

def rules():
    return subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout

async def main():
    firewall = Firewall(SETTINGS.isolated)
    watch = Watch(firewall)
    watch.open()
    firewall.hold({})
    held = rules()
    for _ in range(3):
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        began = time.monotonic()
        while rules() != held:
            assert time.monotonic() - began < 10
            await asyncio.sleep(0.001)
        print(f"back after {time.monotonic() - began:.3f} s")
    await watch.close()

asyncio.run(main())
"""


def test_a_flush_of_everything_is_noticed_and_ours_put_back() -> None:
    """In a network namespace of its own, for it takes everybody's rules away."""
    run("ip", "netns", "add", "hostler-flushed")
    try:
        print(run("ip", "netns", "exec", "hostler-flushed", sys.executable, "-c", FLUSHED))
    finally:
        run("ip", "netns", "del", "hostler-flushed")


async def test_rules_hold_while_the_agent_is_down_and_end_with_what_ended_meanwhile(
    open_provider: Opener, tmp_path: Path
) -> None:
    first = await open_provider()
    lives, goes = spec(), spec()
    await first.create(lives, lambda _: None)
    await first.create(goes, lambda _: None)
    before = rules()
    await first.close()
    assert rules() == before
    store = Store(tmp_path / "instances")
    record = store.record(lives.instance_id)
    assert record is not None
    run("virsh", "destroy", goes.name)
    store.remove(goes.instance_id)
    await asyncio.to_thread(run, "nft", "delete", "table", "bridge", TABLE)

    await open_provider()

    assert senders() == [port_name(SETTINGS.isolated, record.ip)]


async def test_a_restart_of_the_network_leaves_the_rules(open_provider: Opener, tmp_path: Path) -> None:
    provider = await open_provider()
    await provider.create(spec(), lambda _: None)
    admitted = senders()
    ours = [run("nft", "--stateless", "list", "table", family, TABLE) for family in ("bridge", "inet")]
    xml = tmp_path / "network.xml"
    xml.write_text(run("virsh", "net-dumpxml", "--inactive", SETTINGS.network))
    run("virsh", "net-destroy", SETTINGS.network)
    run("virsh", "net-create", str(xml))
    assert senders() == admitted
    assert [run("nft", "--stateless", "list", "table", family, TABLE) for family in ("bridge", "inet")] == ours


async def test_without_its_rules_no_machine_starts(
    open_provider: Opener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider = await open_provider()
    before = rules()
    with monkeypatch.context() as broken:
        broken.setenv("PATH", str(tmp_path))
        with pytest.raises(nft.IsolationFailed, match="nft is not there"):
            await asyncio.to_thread(Firewall(SETTINGS.isolated).restore)
    with monkeypatch.context() as broken:

        def refused(_document: object, _started: object) -> None:
            raise nft.IsolationFailed("nft refused the rules: for the test")

        broken.setattr(provider._firewall, "_apply", refused)
        with pytest.raises(ProviderError, match="nft refused"):
            await provider.create(spec(), lambda _: None)
    assert list((tmp_path / "instances").iterdir()) == []
    assert rules() == before


async def test_what_nft_refuses_is_said_and_changes_nothing(libvirt_up: None) -> None:  # noqa: ARG001
    before = rules()
    with pytest.raises(nft.IsolationFailed, match="nft refused the rules"):
        nft.apply({"nftables": [{"add": {"table": {"family": "bridge", "name": "hostler-x"}}}, {"add": {}}]}, print)
    assert rules() == before


async def test_a_runner_api_that_no_machine_could_call_is_said_at_once(open_provider: Opener, tmp_path: Path) -> None:
    provider = await open_provider()
    with pytest.raises(ProviderError, match="on loopback, where no machine reaches it"):
        await provider.create(spec(url="http://127.0.0.1:9996"), lambda _: None)
    strict = msgspec.structs.replace(
        spec(url="http://coordinator.example:9996"), network=NetworkAccess(NetworkPolicy.STRICT)
    )
    with pytest.raises(ProviderError, match="a strict machine may not ask for names"):
        await provider.create(strict, lambda _: None)
    assert list((tmp_path / "instances").iterdir()) == []
