"""Notices at once when somebody else changes or flushes our rules, and puts them back.

The kernel multicasts every change of nftables. `nft flush ruleset`, with which many a firewall's service begins, spares
nothing.
"""

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from typing import Final

import structlog

from providers.contract import ProviderError
from providers.isolation.firewall import Firewall

# linux/netlink.h, linux/netfilter/nfnetlink.h
_NETLINK_NETFILTER: Final = 12
_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP: Final = 1
_GROUP_NFTABLES: Final = 7
_SUBSYSTEM_NFTABLES: Final = 10
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port id of who asked for the change
_FAMILY_HEADER: Final = 4
_ATTRIBUTE: Final = struct.Struct("=HH")
_TABLE_ATTRIBUTE: Final = 1  # the table's name, in every message but that of a generation

_RECEIVE_BYTES: Final = 1 << 20
_PAUSE_SECONDS: Final = 0.1  # between two restorations: a quarrel with another program must not eat the host
_RETRY_SECONDS: Final = 2.0

_log = structlog.get_logger(__name__)


class Watch:
    """Restores the rules of one firewall for as long as it is open."""

    def __init__(self, firewall: Firewall) -> None:
        self._firewall = firewall
        self._socket: socket.socket | None = None
        self._touched = asyncio.Event()
        self._restoring: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Needs CAP_NET_ADMIN, as the rules themselves do."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTABLES)
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        self._restoring = asyncio.create_task(self._restore_for_ever(), name="isolation")

    async def close(self) -> None:
        if self._restoring is not None:
            self._restoring.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._restoring
            self._restoring = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        while self._socket is not None:
            try:
                datagram = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._touched.set()  # something was missed: it may have been ours
                continue
            if any(not self._firewall.is_ours(sender) for sender in senders(datagram, self._firewall.network.table)):
                self._touched.set()

    async def _restore_for_ever(self) -> None:
        while True:
            await self._touched.wait()
            self._touched.clear()
            try:
                await asyncio.to_thread(self._firewall.restore)
                _log.warning("isolation_restored", table=self._firewall.network.table)
                await asyncio.sleep(_PAUSE_SECONDS)
            except ProviderError as error:
                _log.error("isolation_lost", table=self._firewall.network.table, error=str(error))
                await self._again()
            except Exception:  # noqa: BLE001 - the loop's edge; logged. Nobody else would put the rules back
                _log.exception("isolation_lost", table=self._firewall.network.table)
                await self._again()

    async def _again(self) -> None:
        self._touched.set()
        await asyncio.sleep(_RETRY_SECONDS)


def senders(datagram: bytes, table: str) -> Iterator[int]:
    """The port ids of those who changed something in tables of that name, in what the kernel multicast."""
    name = table.encode() + b"\0"
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, _, _, sender = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size:
            return
        if kind >> 8 == _SUBSYSTEM_NFTABLES and _table_in(datagram[offset + _HEADER.size : offset + length]) == name:
            yield sender
        offset += (length + 3) & ~3


def _table_in(message: bytes) -> bytes:
    attribute = message[_FAMILY_HEADER:]
    if len(attribute) < _ATTRIBUTE.size:
        return b""
    length, kind = _ATTRIBUTE.unpack_from(attribute)
    return attribute[_ATTRIBUTE.size : length] if kind == _TABLE_ATTRIBUTE else b""
