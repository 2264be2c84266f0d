"""The fleet service: one stream per agent, events in and commands out."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final, NoReturn

import grpc
import structlog

from coordinator.domain.changes import REFUSED, Phase
from coordinator.fleet import openness, wire
from coordinator.fleet.entrance import Entrance, Pass
from coordinator.fleet.links import AgentSilent, AgentStuck, HostTaken, Link, Links
from coordinator.fleet.prefetcher import Prefetcher
from coordinator.fleet.reconciler import Reconciler
from coordinator.fleet.silence import HEARTBEAT_SECONDS
from coordinator.fleet.strays import Strays
from coordinator.pki.issuer import NotAdmitted
from coordinator.store.hosts import HostRecord, Pressure
from coordinator.store.instances import PhaseFact
from coordinator.store.store import Store
from hostler import __version__, versions
from hostler.errors import HostlerError
from hostler.versions import VersionsApart
from protos.hostler.v1 import fleet_pb2 as pb
from protos.hostler.v1.fleet_pb2_grpc import FleetServicer

log = structlog.get_logger()

_EVENTS_AT_ONCE: Final = 500
"""Of one agent, read and not committed yet."""

_CODES: Final = {
    HostTaken: grpc.StatusCode.ALREADY_EXISTS,
    VersionsApart: grpc.StatusCode.FAILED_PRECONDITION,
    AgentStuck: grpc.StatusCode.RESOURCE_EXHAUSTED,
    AgentSilent: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_LEAVE_AGAIN_SECONDS: Final = (1, 2, 4, 8, 15, 30, *[60] * 60)
Context = grpc.aio.ServicerContext[pb.AgentMessage, pb.CoordinatorMessage]


class FleetService(FleetServicer):
    def __init__(self, store: Store, links: Links, reconciler: Reconciler, strays: Strays, entrance: Entrance) -> None:
        self._store = store
        self._prefetcher = Prefetcher(store, links)
        self._links = links
        self._reconciler = reconciler
        self._strays = strays
        self._entrance = entrance
        self._leaving: set[asyncio.Task[None]] = set()

    async def Session(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.AgentMessage], context: Context
    ) -> None:
        hello = await self._hello(request_iterator, context)
        now = self._store.now()
        try:
            versions.check(agent=hello.agent_version, coordinator=__version__)
            let_in = await self._entrance.admit(context, hello.host)
            self._links.check(hello.host, hello.agent_run)
        except HostlerError as refusal:
            await _abort(context, hello.host, refusal)
        number = self._links.next_number()
        await self._store.images.present(hello.host, wire.image_reports(hello.host, hello.images))
        ended = await self._strays.ended(hello.host, hello.inventory)
        short = wire.pressure(hello.pressure)
        record = wire.host_record(hello, now, openness.closed_for(short, len(ended)))
        try:
            if not await self._present(record, number, hello.agent_run, let_in.enrolment):
                await self._entrance.recheck(context)  # says why: what has ended never stands again
        except NotAdmitted as refusal:
            await _abort(context, hello.host, refusal)
        link = self._links.open(hello.host, number, hello.agent_run, now, let_in.enrolment)
        link.short, link.told, link.strays_to_go = short, record.pressure, ended
        log.info("host connected", host=hello.host, agent_version=hello.agent_version)
        expiry = _close_when_it_expires(link, let_in, now)
        try:
            await self._entrance.recheck(context)
            await context.write(wire.welcome(__version__, self._store.controller_id, HEARTBEAT_SECONDS))
            link.images = {one.sha256: one for one in hello.images}
            await self._prefetcher.tell({hello.host})
            await self._reconciler.compare(link, hello.inventory)
            await self._serve(link, request_iterator, context)
        except NotAdmitted as refusal:
            link.close(refusal)
        finally:
            if expiry is not None:
                expiry.cancel()
            self._links.remove(link)
            await self._leave(link.host, link.number, link.last_heard)
            log.info("host disconnected", host=hello.host)
        if link.why is not None:
            await _abort(context, link.host, link.why)

    async def _present(self, host: HostRecord, number: int, run: str, enrolment: str) -> bool:
        """Hosts that connect together share a commit, which goes on when one of them leaves before its end."""
        presenting = asyncio.create_task(self._store.hosts.present(host, number, run, enrolment))
        try:
            return await asyncio.shield(presenting)
        except asyncio.CancelledError:
            await asyncio.wait({presenting})
            await self._leave(host.name, number, host.last_seen)
            raise

    async def _leave(self, host: str, number: int, last_heard: datetime) -> None:
        """To its end, also when the stream's task is cancelled meanwhile: a host that is taken for connected is never
        lost, and nothing is done elsewhere.
        """
        leaving = asyncio.create_task(self._left(host, number, last_heard))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        await asyncio.shield(leaving)

    async def _left(self, host: str, number: int, last_heard: datetime) -> None:
        for pause in _LEAVE_AGAIN_SECONDS:
            try:
                await self._store.hosts.left(host, number, last_heard)
            except Exception:
                log.exception("it could not be noted that a host has left", host=host)
                await asyncio.sleep(pause)
            else:
                return

    async def _hello(self, messages: AsyncIterator[pb.AgentMessage], context: Context) -> pb.Hello:
        first = await anext(messages, None)
        if first is None or not first.HasField("hello") or not first.hello.host:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message must be a Hello with a host name")
        return first.hello

    async def _serve(self, link: Link, messages: AsyncIterator[pb.AgentMessage], context: Context) -> None:
        """Until the stream ends, is replaced by a newer one, or one of its directions fails."""
        acks: asyncio.Queue[tuple[int, asyncio.Task[None]]] = asyncio.Queue(_EVENTS_AT_ONCE)
        tasks = {
            asyncio.create_task(self._read(link, messages, acks)),
            asyncio.create_task(self._acknowledge(link, acks)),
            asyncio.create_task(self._write(link, context)),
            asyncio.create_task(link.closed.wait()),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, link: Link, messages: AsyncIterator[pb.AgentMessage], acks: asyncio.Queue[Any]) -> None:
        loop = asyncio.get_running_loop()
        link.listen(loop.time())
        async for message in messages:
            link.last_heard, link.is_listening = self._store.now(), False
            match message.WhichOneof("message"):
                case "event":
                    # Not awaited one by one: events that arrive together share a commit, in their order. When there
                    # are many, nothing more is read until some are committed: gRPC then lets the agent wait.
                    await acks.put((message.event.sequence, asyncio.create_task(self._record(link, message.event))))
                case "console_log":
                    await self._keep_console(link, message.console_log)
                case "heartbeat":
                    await self._beat(link, message.heartbeat)
                case "image_report":
                    await self._take_image_report(link, message.image_report)
                case "inventory":
                    self._reconciler.looked(link, message.inventory)
            link.listen(loop.time())

    async def _beat(self, link: Link, beat: pb.Heartbeat) -> None:
        """The database hears of it only when it changes where machines may go."""
        link.load = beat
        link.short = wire.pressure(beat.pressure)
        await openness.tell(self._store, link)

    async def _take_image_report(self, link: Link, report: pb.ImageReport) -> None:
        """In order, and before the events behind it; progress is kept with the stream alone."""
        before = link.images.get(report.sha256)
        link.images[report.sha256] = report
        if report.state == pb.IMAGE_STATE_FETCHING and before is not None and before.state == report.state:
            return
        for one in wire.image_reports(link.host, [report]):
            await self._store.images.report(one)

    async def _record(self, link: Link, event: pb.InstanceEvent) -> None:
        phase = wire.PHASES.get(event.phase)
        if phase is None:
            return
        at, code = wire.time(event.at), event.error_code
        if code == REFUSED and not link.short.code:
            # Until its next heartbeat: the job would be placed there again, and again refused.
            link.short = Pressure(REFUSED, event.detail or "it refuses machines")
            await openness.tell(self._store, link)
        await self._store.instances.record_phase(
            PhaseFact(link.host, event.instance_id, phase, at, event.detail, error_code=code)
        )
        if phase is Phase.DELETED:
            await self._strays.let_go(link, event.instance_id)

    async def _keep_console(self, link: Link, console: pb.ConsoleLog) -> None:
        """A host speaks only of its own instances; an orphan's console is nobody's."""
        instance = await self._store.instances.get(console.instance_id)
        if instance is not None and instance.host == link.host:
            await self._store.hosts.keep_console(instance.id, console.data, truncated=console.truncated)

    async def _acknowledge(self, link: Link, acks: asyncio.Queue[tuple[int, asyncio.Task[None]]]) -> None:
        while True:
            sequence, recorded = await acks.get()
            await recorded
            link.acknowledge(sequence)

    async def _write(self, link: Link, context: Context) -> None:
        while True:
            message, sent = await link.next()
            await context.write(message)
            if sent is not None:
                sent()


async def _abort(context: Context, host: str, refusal: HostlerError) -> NoReturn:
    log.warning("a stream was refused or ended", host=host, code=refusal.code, reason=str(refusal))
    code = next((code for kind, code in _CODES.items() if isinstance(refusal, kind)), grpc.StatusCode.PERMISSION_DENIED)
    await context.abort(code, str(refusal))


def _close_when_it_expires(link: Link, let_in: Pass, now: datetime) -> asyncio.TimerHandle | None:
    """TLS looks at a certificate when a connection begins, and a stream may last for months."""
    if let_in.expires_at is None:
        return None
    expired = NotAdmitted(
        f"the certificate of the host '{link.host}' expired at {let_in.expires_at:%Y-%m-%d %H:%M:%S} UTC",
        hint=f"an agent renews it in time; one that could not is to be invited: hostler host invite {link.host}",
    )
    seconds = (let_in.expires_at - now).total_seconds()
    return asyncio.get_running_loop().call_later(seconds, link.close, expired)
