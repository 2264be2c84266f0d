"""Connections that leave the host, where no hypervisor has its rules: libvirt's are away whenever it starts anew."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

import pytest

from hostler.network import NetworkAccess, NetworkPolicy
from providers.isolation import Firewall, Guest, Network, guest_of
from tests.real.surroundings import PORT, PUBLIC, listeners, run

pytestmark = pytest.mark.real

NETWORK: Final = Network("hostler-outw", IPv4Network("10.233.0.0/24"), IPv4Address("10.233.0.1"))
MACHINE: Final = "hostler-outw"
BEYOND: Final = "10.99.0.1"  # the host's address on the link that leads there
ASK: Final = f"""
import socket, sys
for port in (0, 700):
    with socket.create_connection(("{PUBLIC}", {PORT}), 10, ("", port)) as asked:
        print("connected", flush=True)
        sys.stdin.readline()
        asked.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        print(asked.makefile().read().split("\\n")[-1], flush=True)
"""


@contextmanager
def machine(guest: Guest) -> Iterator[None]:
    """A network namespace as a guest has its network: a port on the bridge, and its own addresses."""
    run("ip", "netns", "add", MACHINE)
    try:
        run("ip", "link", "add", NETWORK.bridge, "type", "bridge", "forward_delay", "0")
        run("ip", "address", "add", f"{NETWORK.gateway}/24", "dev", NETWORK.bridge)
        run("ip", "link", "add", guest.port, "type", "veth", "peer", "name", "eth0", "netns", MACHINE)
        run("ip", "link", "set", guest.port, "master", NETWORK.bridge, "up")
        run("ip", "link", "set", NETWORK.bridge, "up")
        for command in (
            f"link set eth0 address {guest.mac} up",
            f"address add {guest.address}/24 dev eth0",
            f"route add default via {NETWORK.gateway}",
        ):
            run("ip", "-netns", MACHINE, *command.split())
        yield
    finally:
        run("ip", "netns", "del", MACHINE)
        run("ip", "link", "del", NETWORK.bridge)


def test_they_leave_under_the_hosts_address_and_live_on_when_the_rules_are_made_anew() -> None:
    guest = guest_of(NETWORK, NETWORK.subnet[2], NetworkAccess(NetworkPolicy.INTERNET), ())
    firewall = Firewall(NETWORK)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")  # as libvirt and LXD do with their networks
    with machine(guest), listeners(str(NETWORK.gateway)):
        firewall.hold({"one": guest})
        try:
            asked_by = list(ask_while(firewall.restore))
        finally:
            firewall.remove()
    assert [address for address, _ in asked_by] == [BEYOND, BEYOND]
    assert all(int(port) >= 1024 for _, port in asked_by)


def ask_while(change: Callable[[], None]) -> Iterator[tuple[str, str]]:
    """The address and port that each question came from: the rules change between connecting and asking."""
    command = ["ip", "netns", "exec", MACHINE, sys.executable, "-c", ASK]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdin is not None
        assert asking.stdout is not None
        for _ in range(2):
            assert asking.stdout.readline() == "connected\n"
            change()
            print(file=asking.stdin, flush=True)
            address, port = asking.stdout.readline().split()
            yield address, port
