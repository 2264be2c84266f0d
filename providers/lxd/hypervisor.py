"""The connection to LXD: a client per thread, and its events brought to the event loop.

The only place where pylxd's blocking calls meet asyncio, and where its errors become the provider's.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Final, ParamSpec, TypeVar
from urllib.parse import quote, unquote, urlsplit

import msgspec
import requests
import structlog
from pylxd import Client
from pylxd.client import EventType, get_session_for_url
from pylxd.exceptions import ClientConnectionFailed, LXDAPIException
from ws4py.client import WebSocketBaseClient
from ws4py.exc import WebSocketException

from providers.contract import HypervisorUnavailable, ProviderError
from providers.lxd.place import ensure_project
from providers.lxd.settings import LxdSettings
from providers.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")

THREADS: Final = 8
# Longer than any of LXD's operations may take: an image is unpacked in seconds to a minute.
_TIMEOUT_SECONDS: Final = 100
_RETRY_FIRST_SECONDS: Final = 0.2
_RETRY_MOST_SECONDS: Final = 5.0
# A reboot is told as `shutdown` and then `restarted`.
_ENDED: Final = {"instance-shutdown", "instance-stopped", "instance-restarted", "instance-deleted"}

_log = structlog.get_logger(__name__)


class _Event(msgspec.Struct, frozen=True):
    """LXD's lifecycle event; `source` is the path of what it is about."""

    class Metadata(msgspec.Struct, frozen=True):
        action: str = ""
        source: str = ""

    metadata: Metadata


class Hypervisor:
    """A connection that comes back by itself.

    `ended(name)` is told on the event loop of every instance of the project that ended, whoever's it is; `lost(reason)`
    when the connection is; `back()` is awaited after a lost connection was made anew, since events were missed.
    """

    def __init__(
        self,
        settings: LxdSettings,
        *,
        ended: Callable[[str], None],
        lost: Callable[[str], None],
        back: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._ended = ended
        self._tell_lost = lost
        self._back = back
        self._threads = Threads("lxd", THREADS)
        self._clients = threading.local()
        self._events: WebSocketBaseClient | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            HypervisorUnavailable: LXD does not answer.
        """
        self._loop = asyncio.get_running_loop()
        await self._connect()

    async def close(self) -> None:
        """Disconnect; may be opened again."""
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reconnecting
        self._drop()

    async def call(self, job: Callable[Concatenate[Client, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a job with a client in a thread.

        Raises:
            HypervisorUnavailable: LXD is away.
            ProviderError: the job failed.
        """
        if self._events is None:
            raise HypervisorUnavailable(
                f"LXD at {self._settings.socket_path} is away", hint="it is tried again by itself; see that lxd runs"
            )

        def translated() -> T:
            try:
                return job(self._client(), *args, **kwargs)
            except LXDAPIException as error:
                raise ProviderError(f"LXD: {error}", hint=_hint(str(error))) from error
            except (ClientConnectionFailed, requests.RequestException) as error:
                raise HypervisorUnavailable(f"LXD went away: {error}", hint="it is tried again by itself") from error

        return await self._threads.run(translated)

    async def thread(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking job without LXD; see `Threads.run`."""
        return await self._threads.run(job, *args, **kwargs)

    def _client(self) -> Client:
        """A session of its own for each thread: requests' sessions are not made to be shared."""
        client = getattr(self._clients, "client", None)
        if client is None:
            client = self._clients.client = self._new_client()
        return client

    def _new_client(self) -> Client:
        path = self._settings.socket_path
        if not path.exists():
            raise HypervisorUnavailable(f"there is no LXD at {path}", hint="see that lxd runs, or set [lxd] socket")
        session = get_session_for_url(f"http+unix://{quote(str(path), safe='')}")
        session.trust_env = False  # proxies and .netrc are not for a socket
        return Client(str(path), project=self._settings.project, session=session, timeout=_TIMEOUT_SECONDS)

    async def _connect(self) -> None:
        self._events = await self._threads.run(self._open_events)

    def _open_events(self) -> WebSocketBaseClient:
        try:
            client = self._new_client()
            ensure_project(client, self._settings)  # there are no events of a project that is not there
            events: WebSocketBaseClient = client.events(self._listener(), {EventType.Lifecycle})
            events.resource += f"&project={quote(self._settings.project)}"
            events.connect()
        except (ClientConnectionFailed, LXDAPIException, WebSocketException, OSError) as error:
            raise HypervisorUnavailable(
                f"LXD does not answer at {self._settings.socket_path}: {error}",
                hint="see that lxd runs and that we may use it: group lxd, or root",
            ) from error
        threading.Thread(target=events.run, name="lxd-events", daemon=True).start()
        return events

    def _listener(self) -> type[WebSocketBaseClient]:
        """What pylxd makes of this class is called by the thread of the events."""
        tell, heard, lost = self._tell, self._heard, self._lost

        class Listener(WebSocketBaseClient):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                # LXD compares an Origin with a host that a socket does not have.
                super().__init__(*args, exclude_headers=["origin"], **kwargs)

            def handshake_ok(self) -> None:
                """Nothing to do: `run` is called for it."""

            def received_message(self, message: Any) -> None:
                tell(heard, bytes(message.data))

            def closed(self, _code: int, _reason: str | None = None) -> None:
                tell(lost, self)

        return Listener

    def _tell(self, callback: Callable[[T], None], value: T) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                self._loop.call_soon_threadsafe(callback, value)

    def _heard(self, message: bytes) -> None:
        try:
            told = msgspec.json.decode(message, type=_Event).metadata
        except msgspec.MsgspecError as error:
            _log.warning("lxd_event_unreadable", error=str(error))
            return
        if told.action in _ENDED:
            self._ended(unquote(urlsplit(told.source).path.rpartition("/")[2]))

    def _lost(self, events: WebSocketBaseClient) -> None:
        if self._events is not events:
            return
        _log.warning("lxd_lost", socket=str(self._settings.socket_path))
        self._events = None
        self._tell_lost(f"LXD at {self._settings.socket_path} is away")
        if self._reconnecting is None or self._reconnecting.done():
            self._reconnecting = asyncio.create_task(self._reconnect())

    def _drop(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            with contextlib.suppress(OSError, AttributeError):  # it has just ended by itself
                events.sock.shutdown(socket.SHUT_RDWR)  # its thread sees the end of the stream, and ends

    async def _reconnect(self) -> None:
        delay = _RETRY_FIRST_SECONDS
        while self._events is None:
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_MOST_SECONDS)
            try:
                await self._connect()
                await self._back()
            except ProviderError as error:
                _log.warning("lxd_still_away", error=str(error), retry_seconds=delay)
                self._drop()
        _log.info("lxd_back", socket=str(self._settings.socket_path))


def _hint(said: str) -> str:
    if "No space left" in said or "quota" in said:
        return "the storage pool is full: see `lxc storage info`"
    return ""
