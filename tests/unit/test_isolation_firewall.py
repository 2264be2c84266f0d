"""Which rules are in force, whatever fails on the way, and who changed them: the firewall's state and its watch."""

import asyncio
import errno
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.isolation import Firewall, Watch, rules, watch
from providers.isolation import nft as nft_program
from providers.isolation.gate import Gate, commands
from providers.isolation.nft import IsolationFailed
from providers.isolation.watch import senders
from providers.lxd.remembered import Remembered
from tests.unit.test_isolation_rules import NETWORK, guest


class Nft:
    """Takes documents as nft would."""

    def __init__(self) -> None:
        self.applied: list[rules.Json] = []
        self.broken = False

    def __call__(self, document: rules.Json, started: Any) -> None:
        started(1000 + len(self.applied))
        if self.broken:
            raise IsolationFailed("broken")
        self.applied.append(document)


def test_a_machine_whose_rules_failed_is_not_admitted_later_either() -> None:
    nft = Nft()
    firewall = Firewall(NETWORK, nft)
    firewall.hold({"a": guest(2)})
    nft.broken = True
    with pytest.raises(IsolationFailed):
        firewall.admit("b", guest(3))
    nft.broken = False
    firewall.restore()
    assert nft.applied[-1] == rules.document(NETWORK, [guest(2)])


def test_what_could_not_be_forgotten_goes_with_the_next_change() -> None:
    nft = Nft()
    firewall = Firewall(NETWORK, nft)
    firewall.hold({"a": guest(2), "b": guest(3)})
    nft.broken = True
    with pytest.raises(IsolationFailed):
        firewall.forget("a")
    nft.broken = False
    firewall.admit("c", guest(4))
    assert nft.applied[-1] == rules.document(NETWORK, [guest(3), guest(4)])


def test_who_is_forgotten_a_second_time_because_it_failed_is_gone_for_certain() -> None:
    """A delete that is tried again says that nothing is left: then no rule may be."""
    nft = Nft()
    firewall = Firewall(NETWORK, nft)
    firewall.hold({"a": guest(2), "b": guest(3)})
    nft.broken = True
    for _ in range(2):
        with pytest.raises(IsolationFailed):
            firewall.forget("a")
    nft.broken = False
    firewall.forget("a")
    assert nft.applied[-1] == rules.document(NETWORK, [guest(3)])
    firewall.forget("unknown")
    assert len(nft.applied) == 2  # the kernel is asked for nothing that is so already


def test_who_was_never_admitted_is_forgotten_though_nft_refuses_everything() -> None:
    """Rules are changed wholly or not at all: a create that is undone waits for nothing."""
    nft = Nft()
    firewall = Firewall(NETWORK, nft)
    firewall.hold({"b": guest(3)})
    nft.broken = True
    with pytest.raises(IsolationFailed):
        firewall.admit("a", guest(2))
    firewall.forget("a")
    assert len(nft.applied) == 1


@pytest.mark.parametrize(
    "error", [OSError(errno.EAGAIN, "no process is left"), OSError(errno.EMFILE, "no file is left")]
)
def test_a_host_that_can_start_no_program_says_so_as_of_any_failed_rules(
    monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(subprocess, "Popen", fails)
    with pytest.raises(IsolationFailed, match="is left"):
        nft_program.apply({"nftables": []}, lambda _: None)


async def test_whatever_goes_wrong_the_rules_are_tried_to_be_put_back_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_RETRY_SECONDS", 0.0)
    tries: list[int] = []
    done = asyncio.Event()

    class Failing(Firewall):
        def restore(self) -> None:
            tries.append(len(tries))
            if len(tries) == 1:
                raise RuntimeError("nobody thought of this")
            if len(tries) == 2:
                raise IsolationFailed("nor of this")
            loop.call_soon_threadsafe(done.set)

    loop = asyncio.get_running_loop()
    watching = Watch(Failing(NETWORK, Nft()))
    task = asyncio.create_task(watching._restore_for_ever())
    watching._touched.set()
    async with asyncio.timeout(10):
        await done.wait()
    task.cancel()
    assert tries == [0, 1, 2]


# --- the gate, and what is remembered ---


def test_the_gate_is_closed_after_the_rules_and_anew_at_a_bridge_that_was_made_anew() -> None:
    happened: list[str] = []
    bridges: dict[str, int] = {}

    def index(name: str) -> int:
        if name not in bridges:
            raise OSError(errno.ENODEV, name)
        return bridges[name]

    gate = Gate(NETWORK.bridge, happened.append, index)
    firewall = Firewall(NETWORK, lambda _document, _started: happened.append("rules"), gate=gate)
    firewall.close_gate()
    firewall.hold({})
    bridges[NETWORK.bridge] = 7
    firewall.close_gate()
    firewall.restore()
    bridges[NETWORK.bridge] = 8
    firewall.restore()
    closed = commands(NETWORK.bridge)
    assert happened == ["rules", closed, "rules", "rules", closed]
    assert all(NETWORK.bridge in line for line in closed.splitlines())


def test_no_gate_is_closed_before_rules_mark_what_may_come_through() -> None:
    happened: list[str] = []
    nft = Nft()
    nft.broken = True
    firewall = Firewall(NETWORK, nft, gate=Gate(NETWORK.bridge, happened.append, lambda _: 7))
    with pytest.raises(IsolationFailed):
        firewall.hold({})
    firewall.close_gate()
    assert happened == []


def test_a_machine_whose_gate_cannot_be_closed_is_not_admitted() -> None:
    def refuses(_: str) -> None:
        raise IsolationFailed("tc refused")

    nft = Nft()
    firewall = Firewall(NETWORK, nft, gate=Gate(NETWORK.bridge, refuses, lambda _: 7))
    with pytest.raises(IsolationFailed, match="tc refused"):
        firewall.admit("a", guest(2))
    with pytest.raises(IsolationFailed):
        firewall.restore()
    assert nft.applied[-1] == rules.document(NETWORK, [])


@pytest.mark.parametrize("broken", ["", "{", '{"a": 1}'])
def test_whom_the_rules_admit_is_remembered_before_they_do(tmp_path: Path, broken: str) -> None:
    file = tmp_path / "guests.json"
    at_apply: list[set[str]] = []

    def apply(_document: rules.Json, _started: Any) -> None:
        at_apply.append(set(Remembered(file).load()))

    firewall = Firewall(NETWORK, apply, remember=Remembered(file).save)
    firewall.hold({"a": guest(2)})
    firewall.admit("b", guest(3))
    firewall.forget("a")
    assert at_apply == [{"a"}, {"a", "b"}, {"b"}]
    assert Remembered(file).load() == {"b": guest(3)}
    file.write_text(broken)
    assert Remembered(file).load() == {}
    firewall.forget("b")
    assert list(tmp_path.iterdir()) == []
    assert Remembered(file).load() == {}


def test_what_cannot_be_written_is_nobody_and_the_rules_are_put_in_place_all_the_same(tmp_path: Path) -> None:
    """On a full disk, whoever was there before must not stand for whoever has the address now."""
    nft, memory = Nft(), Remembered(tmp_path / "guests.json")
    firewall = Firewall(NETWORK, nft, remember=memory.save)
    firewall.hold({"a": guest(2)})
    (tmp_path / "guests.new").mkdir()
    firewall.hold({"b": guest(3)})
    assert nft.applied[-1] == rules.document(NETWORK, [guest(3)])
    assert memory.load() == {}
    (tmp_path / "guests.new").rmdir()
    firewall.restore()
    assert memory.load() == {"b": guest(3)}


# --- what the kernel tells ---


def _message(table: str, sender: int, *, subsystem: int = 10, attribute: int = 1) -> bytes:
    name = table.encode() + b"\0"
    body = struct.pack("=BBH", 1, 0, 0) + struct.pack("=HH", 4 + len(name), attribute) + name
    length = 16 + len(body)
    return struct.pack("=IHHII", length, subsystem << 8, 0, 0, sender) + body + b"\0" * (-length % 4)


def _said(*messages: bytes) -> Iterator[int]:
    return senders(b"".join(messages), NETWORK.table)


def test_who_changed_our_tables_is_read_from_what_the_kernel_multicasts() -> None:
    ours = NETWORK.table
    assert list(_said(_message("filter", 7), _message(ours, 8), _message(ours, 9))) == [8, 9]
    assert list(_said(_message(ours, 8, subsystem=1))) == []
    assert list(_said(_message(ours, 8, attribute=2))) == []
    assert list(_said(_message(ours + "x", 8))) == []


@given(st.binary(max_size=200))
def test_no_datagram_is_too_strange_to_be_read(datagram: bytes) -> None:
    list(senders(datagram, NETWORK.table))


def test_our_own_changes_are_known_as_such() -> None:
    nft = Nft()
    firewall = Firewall(NETWORK, nft)
    for _ in range(200):
        firewall.restore()
    assert firewall.is_ours(1199)
    assert not firewall.is_ours(1000)
