"""A host whose rules are flushed, as many a firewall's service begins with: closed to its machines until they are back.

In network namespaces, since a flush takes everybody's rules away: one is the host, one its machine, one is beyond.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

import pytest

from hostler.network import NetworkAccess, NetworkPolicy
from providers.isolation import Guest, Network, guest_of
from providers.lxd.remembered import Remembered
from tests.real.surroundings import METADATA, PORT, PRIVATE, PUBLIC, SERVER, run

pytestmark = pytest.mark.real

NETWORK: Final = Network("hostler-flsh", IPv4Network("10.234.0.0/24"), IPv4Address("10.234.0.1"))
HOST, MACHINE, BEYOND = "hostler-flsh-host", "hostler-flsh-machine", "hostler-flsh-beyond"
COORDINATOR: Final = "198.41.0.5"
RUNNER_API_PORT: Final = PORT + 1
# Stands for the agent: it holds the rules and puts them back, until it is killed.
AGENT: Final = """
import asyncio, sys
from pathlib import Path
from providers.isolation import Firewall, Watch
from providers.lxd.remembered import Remembered
from tests.real.test_isolation_flushed import NETWORK

async def main():
    firewall = Firewall(NETWORK)
    watch = Watch(firewall)
    watch.open()
    firewall.hold(Remembered(Path(sys.argv[1])).load())
    print("holds", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
# Connects, and asks when it is told to.
ASK: Final = f"""
import socket, sys
held = socket.create_connection(("{PUBLIC}", {PORT}), 10)
print("connected", flush=True)
sys.stdin.readline()
held.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
print(held.makefile().read().split("\\n")[-1], flush=True)
"""
TRY: Final = """
import errno, socket, sys
from concurrent.futures import ThreadPoolExecutor

def reached(text):
    family = socket.AF_INET6 if "%" in text else socket.AF_INET
    address, _, port = text.rpartition(":")
    with socket.socket(family) as one:
        one.settimeout(1)
        try:
            one.connect(socket.getaddrinfo(address, int(port), family, socket.SOCK_STREAM)[0][4])
        except OSError as error:
            return error.errno == errno.ECONNREFUSED
        return True

with ThreadPoolExecutor(16) as threads:
    for text, was in zip(sys.argv[1:], threads.map(reached, sys.argv[1:])):
        print(text if was else "", flush=True)
"""


# What a bridge's own device sees of the frames below, by how they end.
SEES: Final = f"""
import socket
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as seen_by:
    seen_by.bind(("{NETWORK.bridge}", 3))
    print("looks", flush=True)
    seen = set()
    while "ends" not in seen:
        seen.add(seen_by.recv(2000)[-4:].decode(errors="replace"))
    print(*(seen & {{"vlan", "ipv6", "arps"}}), flush=True)
"""
# ARP under the machine's own addresses, behind a VLAN's tag and without it; IPv6 from a link-local address.
SENDS: Final = """
import socket, sys
mac, address, gateway = bytes.fromhex(sys.argv[1].replace(":", "")), *map(socket.inet_aton, sys.argv[2:])
arp = bytes.fromhex("0001080006040001") + mac + address + bytes(6) + gateway
ipv6 = bytes.fromhex("6000000000183bff" + "fe80" + "00" * 13 + "02" + "ff02" + "00" * 13 + "01")
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
    link.bind(("eth0", 0))
    for kind, content, ending in (
        ("810000070806", arp, b"vlan"), ("86dd", ipv6, b"ipv6"), ("0806", arp, b"arps"), ("0806", arp, b"ends")
    ):
        link.send(b"\\xff" * 6 + mac + bytes.fromhex(kind) + content.ljust(60, b"\\0") + ending)
"""


def inside(namespace: str, *command: str) -> list[str]:
    return ["ip", "netns", "exec", namespace, *command]


@pytest.fixture
def guest() -> Guest:
    access = NetworkAccess(NetworkPolicy.OPEN)
    return guest_of(NETWORK, NETWORK.subnet[2], access, (f"{COORDINATOR}:{RUNNER_API_PORT}/tcp",))


@pytest.fixture
def surroundings(guest: Guest) -> Iterator[None]:
    with ExitStack() as undone:
        for name in (HOST, MACHINE, BEYOND):
            run("ip", "netns", "add", name)
            undone.callback(run, "ip", "netns", "del", name)
            run("ip", "-netns", name, "link", "set", "lo", "up")
        for command in (
            f"link add {NETWORK.bridge} type bridge forward_delay 0",
            f"address add {NETWORK.gateway}/24 dev {NETWORK.bridge}",
            f"address add {METADATA}/32 dev lo",
            f"link add {guest.port} type veth peer name eth0 netns {MACHINE}",
            f"link set {guest.port} master {NETWORK.bridge} up",
            f"link set {NETWORK.bridge} up",
            f"link add uplink type veth peer name eth0 netns {BEYOND}",
            "address add 10.99.0.1/24 dev uplink",
            "link set uplink up",
            f"route add default via {PRIVATE}",
        ):
            run("ip", "-netns", HOST, *command.split())
        for command in (
            f"address add {one} dev eth0" for one in (f"{PRIVATE}/24", f"{PUBLIC}/32", f"{COORDINATOR}/32")
        ):
            run("ip", "-netns", BEYOND, *command.split())
        run("ip", "-netns", BEYOND, "link", "set", "eth0", "up")
        run("ip", "-netns", BEYOND, "route", "add", "default", "via", "10.99.0.1")
        for command in (
            f"link set eth0 address {guest.mac} up",
            f"address add {guest.address}/24 dev eth0",
            f"route add default via {NETWORK.gateway}",
        ):
            run("ip", "-netns", MACHINE, *command.split())
        run(*inside(HOST, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1"))
        for namespace in (HOST, BEYOND):
            undone.enter_context(serving(namespace))
        yield


@contextmanager
def serving(namespace: str) -> Iterator[None]:
    """Each address of it, IPv6 too, at PORT; whatever else is asked for is refused, which a machine sees too."""
    with talking(inside(namespace, sys.executable, "-c", SERVER, "::"), "listens"):
        yield


@contextmanager
def talking(command: list[str], says: str) -> Iterator["subprocess.Popen[str]"]:
    """A program that has begun; killed at the end, whatever it does."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one:
        try:
            assert one.stdout is not None
            assert one.stdout.readline() == f"{says}\n"
            yield one
        finally:
            one.kill()


def reached(*addresses: str) -> set[str]:
    return set(run(*inside(MACHINE, sys.executable, "-c", TRY, *addresses)).split())


@pytest.fixture
def agent(guest: Guest, tmp_path: Path) -> list[str]:
    file = tmp_path / "guests.json"
    Remembered(file).save({"one": guest})
    return inside(HOST, sys.executable, "-c", AGENT, str(file))


@pytest.fixture
def tries(surroundings: None) -> list[str]:  # noqa: ARG001
    """What there is to be reached, and would be if nothing stood in the way."""
    shown = run("ip", "-netns", HOST, "-6", "-brief", "address", "show", NETWORK.bridge)
    link_local = shown.split()[2].partition("/")[0]
    addresses = (PUBLIC, PRIVATE, str(NETWORK.gateway), METADATA, f"{link_local}%eth0", COORDINATOR)
    found = [*(f"{one}:{PORT}" for one in addresses), f"{COORDINATOR}:{RUNNER_API_PORT}"]
    until(lambda: reached(*found) == set(found))  # IPv6 wants a moment for its addresses
    return found


RULED: Final = {f"{PUBLIC}:{PORT}", f"{PRIVATE}:{PORT}", f"{COORDINATOR}:{RUNNER_API_PORT}"}


def test_nothing_is_reached_until_the_rules_are_back_and_connections_go_on(agent: list[str], tries: list[str]) -> None:
    with talking(agent, "holds"):
        assert reached(*tries) == RULED
        flush()
        until(lambda: rules() != "")
        assert reached(*tries) == RULED
    with talking(inside(MACHINE, sys.executable, "-c", ASK), "connected") as asking:
        assert asking.stdin is not None
        assert asking.stdout is not None
        assert rules() != ""  # the agent's end takes nothing away
        flush()
        assert reached(*tries) == set()
        print(file=asking.stdin, flush=True)  # it speaks while all is closed
        with talking(agent, "holds"):
            assert asking.stdout.readline().split()[0] == "10.99.0.1"
            assert reached(*tries) == RULED
    assert reached(*tries) == RULED


@pytest.mark.usefixtures("surroundings")
def test_neither_a_vlans_tag_nor_ipv6_comes_through(agent: list[str], guest: Guest) -> None:
    """What is sent is seen where no rules are, by what looks before the gate does."""
    everything = {"vlan", "ipv6", "arps"}
    assert seen_of(guest) == everything
    with talking(agent, "holds"):
        assert seen_of(guest) == {"arps"}
    assert seen_of(guest) == {"arps"}
    flush()
    assert seen_of(guest) == everything


def seen_of(guest: Guest) -> set[str]:
    sends = inside(MACHINE, sys.executable, "-c", SENDS, guest.mac, str(guest.address), str(NETWORK.gateway))
    with talking(inside(HOST, sys.executable, "-c", SEES), "looks") as sees:
        run(*sends)
        assert sees.stdout is not None
        return set(sees.stdout.readline().split())


def flush() -> None:
    run(*inside(HOST, "nft", "flush", "ruleset"))


def rules() -> str:
    return run(*inside(HOST, "nft", "list", "tables"))


def until(holds: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < 20
        time.sleep(0.005)
