"""The server on a real socket: sizes, framing and broken clients."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from coordinator.http.bodies import LARGEST_BODY, Bodies
from coordinator.http.server import CannotListen, serve
from tests.samples.http import Site, body, headers, open_site

HUGE = 30 * 1024 * 1024


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Wire:
    """A client that sends exactly what it is told."""

    def __init__(self, site: Site, port: int) -> None:
        self.site = site
        self.port = port

    async def send(self, *parts: bytes, path: str = "/webhooks", **sent: str) -> tuple[int, dict[str, str]]:
        """Send a head and parts of a body; the answer is read without ending the body.

        A status of 0: the connection was closed without an answer.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            lines = [
                f"POST {path} HTTP/1.1",
                "Host: coordinator",
                *(f"{k.replace('_', '-')}: {v}" for k, v in sent.items()),
            ]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
            return await self._exchange(reader, writer, parts)
        finally:
            writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, parts: tuple[bytes, ...]
    ) -> tuple[int, dict[str, str]]:
        async def push() -> None:
            for part in parts:
                writer.write(part)
                await writer.drain()

        pushing = asyncio.create_task(push())
        async with asyncio.timeout(20):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return 0, {}
            finally:
                pushing.cancel()
                await asyncio.gather(pushing, return_exceptions=True)
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            content = await reader.readexactly(length)
        status = int(head.split()[1])
        return status, json.loads(content) if content and status >= 400 and content[:1] == b"{" else {}


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    port = _free_port()
    async with open_site(tmp_path) as site, serve(site.app, f"127.0.0.1:{port}"):
        wire = Wire(site, port)
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionError:
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    break
        yield wire


def _signed(content: bytes) -> dict[str, str]:
    return {name.replace("-", "_"): value for name, value in headers(content).items()}


async def test_a_delivery_over_a_socket_is_taken(wire: Wire) -> None:
    content = body()
    assert (await wire.send(content, Content_Length=str(len(content)), **_signed(content)))[0] == 200
    assert await wire.site.jobs() == 1


async def test_a_delivery_in_chunks_is_taken(wire: Wire) -> None:
    content = body()
    chunks = b"".join(b"%x\r\n%s\r\n" % (1, bytes([byte])) for byte in content) + b"0\r\n\r\n"
    assert (await wire.send(chunks, Transfer_Encoding="chunked", **_signed(content)))[0] == 200
    assert await wire.site.jobs() == 1


@pytest.mark.parametrize("path", ["/webhooks", "/webhooks/", "/webhooks/{controller}"])
async def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(wire: Wire, path: str) -> None:
    path = path.format(controller=wire.site.store.controller_id)
    told = {"Content_Length": str(HUGE), "X_GitHub_Event": "workflow_job"}
    status, answer = await wire.send(b"{" * 1000, path=path, **told)
    assert status == 413
    assert answer == {"error": "Request Entity Too Large", "details": f"the body is larger than {LARGEST_BODY} bytes"}


async def test_a_body_that_grows_too_large_is_refused_wherever_it_ends(wire: Wire) -> None:
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    sent = {"Transfer_Encoding": "chunked", "X_GitHub_Event": "workflow_job"}
    status, answer = await wire.send(*[chunk] * 30, b"0\r\n\r\n", **sent)
    assert status == 413
    assert answer["error"] == "Request Entity Too Large"


async def test_the_largest_body_is_read_whole(wire: Wire) -> None:
    content = b'{"padding":"' + b"x" * (LARGEST_BODY - 14) + b'"}'
    assert len(content) == LARGEST_BODY
    status, answer = await wire.send(content, Content_Length=str(len(content)), **_signed(content))
    assert status == 400
    assert "missing required field" in answer["details"]


@pytest.mark.parametrize("length", ["-1", "1e9", "9" * 30, "9" * 5000, "x", "", "10, 20"])
async def test_a_length_that_is_none_is_refused(wire: Wire, length: str) -> None:
    status, _ = await wire.send(b"{}", Content_Length=length, X_GitHub_Event="workflow_job")
    assert status in (0, 400, 413, 431)
    assert await wire.site.jobs() == 0


async def test_a_connection_is_kept_for_longer_than_a_proxy_keeps_it_idle(wire: Wire) -> None:
    content = body()
    lines = [f"{name}: {value}" for name, value in {**headers(content), "Content-Length": len(content)}.items()]
    request = "\r\n".join(["POST /webhooks HTTP/1.1", "Host: coordinator", *lines]).encode() + b"\r\n\r\n" + content
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    for pause in (6, 0):  # the library's own patience is 5 s
        writer.write(request)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        await asyncio.sleep(pause)
    writer.close()


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(wire: Wire) -> None:
    content = body()
    for _ in range(5):
        _, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        lines = ["POST /webhooks HTTP/1.1", "Host: x", f"Content-Length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in headers(content).items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content[:50])
        await writer.drain()
        writer.close()
    assert (await wire.send(content, Content_Length=str(len(content)), **_signed(content)))[0] == 200
    assert await wire.site.jobs() == 1


async def _open(
    wire: Wire, length: int, event: str = "workflow_job"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a head that announces a body, and nothing of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    writer.write(
        f"POST /webhooks HTTP/1.1\r\nHost: c\r\nX-GitHub-Event: {event}\r\nContent-Length: {length}\r\n\r\n".encode()
    )
    return reader, writer


async def _status(reader: asyncio.StreamReader) -> bytes:
    """The answer's first line and headers; empty when the connection ends without one."""
    async with asyncio.timeout(20):
        try:
            return await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""


@pytest.mark.parametrize("event", ["push", "ping", "no-such-event", ""])
async def test_other_events_are_answered_before_their_bodies_come(wire: Wire, event: str) -> None:
    reader, writer = await _open(wire, LARGEST_BODY, event)
    assert b" 200 " in await _status(reader)
    writer.close()


@pytest.mark.parametrize("event", ["workflow_job", "push"])
async def test_a_body_that_does_not_come_is_not_waited_for(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    monkeypatch.setattr("coordinator.http.guarded.BODY_GRACE_SECONDS", 0.2)
    reader, writer = await _open(wire, 1000, event)
    writer.write(b"{")
    answered = await _status(reader)
    assert (b" 408 " if event == "workflow_job" else b" 200 ") in answered
    async with asyncio.timeout(20):
        assert await reader.read() == b""  # closed
    writer.close()


async def test_a_body_that_trickles_is_not_waited_for_and_one_that_comes_quickly_is(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.http.guarded.BODY_GRACE_SECONDS", 0.0)
    for rate, gets in ((1e6, b" 408 "), (1e-6, b" 400 ")):
        monkeypatch.setattr("coordinator.http.guarded.SLOWEST_BODY", rate)
        reader, writer = await _open(wire, 20)
        writer.write(b" " * 10)
        await asyncio.sleep(0.1)
        writer.write(b" " * 10)
        assert gets in await _status(reader)
        writer.close()


async def test_a_connection_is_not_kept_for_ever_after_a_body_that_ends_late(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = await _open(wire, 4, "push")
    assert b" 200 " in await _status(reader)
    monkeypatch.setattr("coordinator.http.guarded.LONGEST_HEAD_SECONDS", 0.2)
    writer.write(b"late")
    async with asyncio.timeout(20):
        assert b" 408 " in await reader.read()
    writer.close()


async def test_large_bodies_wait_for_each_other_unread_and_small_ones_for_none(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire.site.webhooks, "_bodies", Bodies(large_at_once=1, large_waiting=1, patience_seconds=60.0))
    large = body(html_url="https://forge.example/" + "x" * 10**6)
    first = await _open(wire, len(large))
    first[1].write(large[:-1])
    await _until(wire.site.webhooks._bodies._turns.locked)
    second = await _open(wire, len(large))
    second[1].write(large)
    await _until(lambda: wire.site.webhooks._bodies._may_wait == 0)
    third = await _open(wire, len(large))
    refused = await _status(third[0])
    assert b" 503 " in refused
    assert b"retry-after: 10" in refused.lower()

    small = body(number=7)
    assert (await wire.send(small, Content_Length=str(len(small)), **_signed(small)))[0] == 200
    assert await wire.site.jobs() == 1

    first[1].write(large[-1:])
    for reader, writer in (first, second):
        assert b" 401 " in await _status(reader)  # not signed: that is seen only now
        writer.close()
    third[1].close()


async def test_a_large_body_that_waits_too_long_is_sent_away(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire.site.webhooks, "_bodies", Bodies(large_at_once=0, patience_seconds=0.1))
    reader, writer = await _open(wire, 10**6)
    assert b" 503 " in await _status(reader)
    writer.close()


async def test_what_small_bodies_hold_together_is_bounded_and_given_back(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = Bodies(small_total=150_000)
    monkeypatch.setattr(wire.site.webhooks, "_bodies", bodies)
    halves = [await _open(wire, 100_000) for _ in range(2)]
    for _, writer in halves:
        writer.write(b" " * 70_000)
    await _until(lambda: bodies._held == 140_000)
    reader, writer = await _open(wire, 100_000)
    writer.write(b" " * 70_000)
    assert b" 503 " in await _status(reader)
    writer.close()
    for _, half in halves:
        half.close()
    await _until(lambda: bodies._held == 0)
    content = body()
    assert (await wire.send(content, Content_Length=str(len(content)), **_signed(content)))[0] == 200


async def test_a_body_that_did_not_say_how_large_it_is_takes_a_turn_or_none(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n0\r\n\r\n"
    sent = {"Transfer_Encoding": "chunked", "X_GitHub_Event": "workflow_job"}
    for turns, gets in ((1, 400), (0, 503)):
        bodies = Bodies(large_at_once=turns)
        monkeypatch.setattr(wire.site.webhooks, "_bodies", bodies)
        assert (await wire.send(chunk, **sent))[0] == gets
        await _until(lambda bodies=bodies: bodies._held == 0)  # type: ignore[misc]


async def test_too_many_connections_are_refused_and_those_that_are_there_served(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = await _open(wire, 2, "ping")
    assert b" 200 " in await _status(reader)
    monkeypatch.setattr("coordinator.http.guarded.MOST_CONNECTIONS", 1)
    refused, other = await asyncio.open_connection("127.0.0.1", wire.port)
    answer = await _status(refused)
    assert b" 503 " in answer
    assert b"Retry-After: 10" in answer
    other.close()
    writer.write(b"{}GET /healthz HTTP/1.1\r\nHost: c\r\n\r\n")
    assert b" 200 " in await _status(reader)
    writer.close()


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


async def test_health_is_told(wire: Wire) -> None:
    assert (await wire.site.client.get("/healthz")).text == "ok\n"


async def test_an_address_in_use_is_said_with_its_key(wire: Wire) -> None:
    with pytest.raises(CannotListen, match=rf"http\.bind: cannot listen on 127\.0\.0\.1:{wire.port}: Address already"):
        async with serve(wire.site.app, f"127.0.0.1:{wire.port}"):
            pytest.fail("it listens twice")


async def test_a_head_that_does_not_end_is_refused_before_it_fills_the_memory(wire: Wire) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    try:
        writer.write(b"POST /webhooks HTTP/1.1\r\nHost: coordinator\r\nX-Long: ")
        writer.write(b"x" * 65 * 1024)
        async with asyncio.timeout(20):
            head = await reader.read(1024)
        assert b" 431 " in head.split(b"\r\n")[0]
    finally:
        writer.close()


async def test_a_head_that_takes_too_long_is_not_waited_for(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.http.guarded.LONGEST_HEAD_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    try:
        writer.write(b"POST /webhooks HTTP/1.1\r\nHost: coord")
        async with asyncio.timeout(10):
            head = await reader.read(1024)
        assert b" 408 " in head.split(b"\r\n")[0]
    finally:
        writer.close()


async def test_a_connection_that_is_kept_takes_one_request_after_the_other(wire: Wire) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    try:
        for _ in range(3):
            writer.write(b"POST /webhooks HTTP/1.1\r\nHost: c\r\nX-GitHub-Event: ping\r\nContent-Length: 2\r\n\r\n{}")
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head.split(b"\r\n")[0]
            assert b"content-length: 0" in head.lower()
    finally:
        writer.close()
