"""A network namespace whose only link to the machine can be cut, delayed and made lossy, packet by packet.

The link is two TUN devices with this process between them. The kernels that tests run on have no netem, and this is the
same to TCP: what is lost is sent again by the kernel, what is late is late.
"""

import asyncio
import fcntl
import os
import random
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_MTU: Final = 1500


class BadLink:
    """Between this machine (`here`) and the namespace (`there`)."""

    def __init__(self, number: int) -> None:
        self.namespace = f"hostler-test-{number}"
        self.here = f"10.231.{number}.1"
        self.there = f"10.231.{number}.2"
        self.delay_seconds = (0.0, 0.0)  # from, to; each packet for itself, so that they also overtake each other
        self.loss = 0.0
        self.carried = 0
        self.lost = 0
        self._inner = f"hlt{number}n"
        self._outer = f"hlt{number}r"
        self._chance = random.Random(number)  # noqa: S311 (which packets are lost)
        self._ends: tuple[int, int] = (-1, -1)

    def start(self) -> None:
        _ip("netns", "add", self.namespace)
        self._ends = _tun(self._outer), _tun(self._inner)
        _ip("link", "set", self._inner, "netns", self.namespace)
        _ip("address", "add", f"{self.here}/24", "dev", self._outer)
        _ip("link", "set", self._outer, "up")
        _ip("-n", self.namespace, "link", "set", "lo", "up")
        _ip("-n", self.namespace, "address", "add", f"{self.there}/24", "dev", self._inner)
        self.plug()
        loop = asyncio.get_running_loop()
        one, other = self._ends
        loop.add_reader(one, self._carry, one, other)
        loop.add_reader(other, self._carry, other, one)

    def stop(self) -> None:
        loop = asyncio.get_running_loop()
        for end in self._ends:
            if end >= 0:
                loop.remove_reader(end)
                os.close(end)
        self._ends = (-1, -1)
        subprocess.run(["ip", "netns", "del", self.namespace], check=False, stderr=subprocess.DEVNULL)

    def cut(self) -> None:
        """As by pulling the cable: the namespace's interface goes down."""
        _ip("-n", self.namespace, "link", "set", self._inner, "down")

    def plug(self) -> None:
        _ip("-n", self.namespace, "link", "set", self._inner, "up")
        _ip("-n", self.namespace, "route", "replace", "default", "via", self.here)

    @property
    def within(self) -> tuple[str, ...]:
        """What to put before a command so that it runs in the namespace."""
        return ("ip", "netns", "exec", self.namespace)

    def _carry(self, source: int, to: int) -> None:
        try:
            packet = os.read(source, 65536)
        except BlockingIOError:
            return
        except OSError:  # the interface is down
            return
        if self._chance.random() < self.loss:
            self.lost += 1
            return
        late = self._chance.uniform(*self.delay_seconds)
        if late:
            asyncio.get_running_loop().call_later(late, self._deliver, to, packet)
        else:
            self._deliver(to, packet)

    def _deliver(self, to: int, packet: bytes) -> None:
        if to not in self._ends:
            return
        try:
            os.write(to, packet)
            self.carried += 1
        except OSError:  # down: lost, as on a cable that is not plugged
            self.lost += 1


@contextmanager
def bad_links(count: int) -> Iterator[list[BadLink]]:
    links = [BadLink(number) for number in range(1, count + 1)]
    try:
        for link in links:
            link.start()
        yield links
    finally:
        for link in links:
            link.stop()


def _tun(name: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return end


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
