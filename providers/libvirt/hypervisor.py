"""The one connection to libvirt: kept up, used from threads, its events brought to the event loop.

The only place where libvirt's blocking calls meet asyncio, and where its errors become the provider's.
"""

import asyncio
import contextlib
import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Concatenate, Final, ParamSpec, TypeVar

import libvirt
import structlog

from providers.contract import HypervisorUnavailable, ProviderError
from providers.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")

# A daemon that does not answer for 5 s, three times, counts as gone.
_KEEPALIVE_SECONDS: Final = 5
_KEEPALIVE_COUNT: Final = 3
_RETRY_FIRST_SECONDS: Final = 0.2
_RETRY_MOST_SECONDS: Final = 5.0
THREADS: Final = 16

_CONNECTION_ERRORS: Final = {
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
    libvirt.VIR_ERR_RPC,
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_CANCELLED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
}
_ENDED: Final = {libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_CRASHED}

_log = structlog.get_logger(__name__)


class Hypervisor:
    """A connection that comes back by itself.

    `ended(instance_id)` is told on the event loop of every domain that ended, whoever's it is; `lost(reason)` when
    the connection is; `back()` is awaited after a lost connection was made anew, since events were missed meanwhile.
    """

    def __init__(
        self,
        uri: str,
        *,
        ended: Callable[[str], None],
        lost: Callable[[str], None],
        back: Callable[[], Awaitable[None]],
    ) -> None:
        self._uri = uri
        self._ended = ended
        self._tell_lost = lost
        self._back = back
        self._conn: libvirt.virConnect | None = None
        self._threads = Threads("libvirt", THREADS)
        self._reconnecting: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            HypervisorUnavailable: libvirt does not answer.
        """
        self._loop = asyncio.get_running_loop()
        _start_events()
        await self._connect()

    async def close(self) -> None:
        """Disconnect; may be opened again."""
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reconnecting
        conn, self._conn = self._conn, None
        if conn is not None:
            await self.thread(_close, conn)

    async def call(self, job: Callable[Concatenate[libvirt.virConnect, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a job with the connection in a thread.

        Raises:
            HypervisorUnavailable: libvirt is away.
            ProviderError: the job failed.
        """
        conn = self._conn
        if conn is None:
            raise HypervisorUnavailable(
                f"libvirt at {self._uri} is away", hint="it is tried again by itself; see that libvirtd runs"
            )

        def translated() -> T:
            try:
                return job(conn, *args, **kwargs)
            except libvirt.libvirtError as error:
                raise _translate(conn, error) from error

        return await self.thread(translated)

    async def thread(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking job without the connection; see `Threads.run`."""
        return await self._threads.run(job, *args, **kwargs)

    async def _connect(self) -> None:
        self._conn = await self.thread(self._open_connection)

    def _open_connection(self) -> libvirt.virConnect:
        conn = None
        try:
            conn = libvirt.open(self._uri)
            conn.registerCloseCallback(self._on_close, None)
            conn.setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT)
            conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle, None)
        except libvirt.libvirtError as error:
            if conn is not None:
                _close(conn)
            raise HypervisorUnavailable(
                f"libvirt does not answer at {self._uri}: {error}", hint="see that libvirtd runs and that we may use it"
            ) from error
        return conn

    # The next two are called by libvirt in the thread of its events.

    def _on_close(self, conn: libvirt.virConnect, reason: int, _opaque: object) -> None:
        if reason != libvirt.VIR_CONNECT_CLOSE_REASON_CLIENT:
            self._tell(self._lost, conn)

    def _on_lifecycle(
        self, _conn: libvirt.virConnect, domain: libvirt.virDomain, event: int, _detail: int, _opaque: object
    ) -> None:
        if event in _ENDED:
            self._tell(self._ended, domain.UUIDString())

    def _tell(self, callback: Callable[[T], None], value: T) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                self._loop.call_soon_threadsafe(callback, value)

    def _lost(self, conn: libvirt.virConnect) -> None:
        if self._conn is None or self._conn != conn:
            return
        _log.warning("libvirt_lost", uri=self._uri)
        self._drop()
        self._tell_lost(f"libvirt at {self._uri} is away")
        if self._reconnecting is None or self._reconnecting.done():
            self._reconnecting = asyncio.create_task(self._reconnect())

    def _drop(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            self._threads.start(_close, conn)

    async def _reconnect(self) -> None:
        delay = _RETRY_FIRST_SECONDS
        while self._conn is None:
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_MOST_SECONDS)
            try:
                await self._connect()
                await self._back()
            except ProviderError as error:
                _log.warning("libvirt_still_away", error=str(error), retry_seconds=delay)
                self._drop()
        _log.info("libvirt_back", uri=self._uri)


def _close(conn: libvirt.virConnect) -> None:
    # A connection that broke has nothing left to close.
    with contextlib.suppress(libvirt.libvirtError):
        conn.unregisterCloseCallback()
    with contextlib.suppress(libvirt.libvirtError):
        conn.close()


def _translate(conn: libvirt.virConnect, error: libvirt.libvirtError) -> ProviderError:
    try:
        alive = bool(conn.isAlive())
    except libvirt.libvirtError:
        alive = False
    if not alive or error.get_error_code() in _CONNECTION_ERRORS:
        return HypervisorUnavailable(f"libvirt went away: {error}", hint="it is tried again by itself")
    return ProviderError(f"libvirt: {error}")


@functools.cache
def _start_events() -> threading.Thread:
    """Run libvirt's own event loop, once per process; only connections opened afterwards have events."""
    libvirt.registerErrorHandler(lambda _opaque, _error: None, None)  # errors are raised; not printed as well
    libvirt.virEventRegisterDefaultImpl()
    thread = threading.Thread(target=_run_events, name="libvirt-events", daemon=True)
    thread.start()
    return thread


def _run_events() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError as error:
            _log.error("libvirt_events_failed", error=str(error))
            return
