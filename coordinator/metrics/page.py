"""GET /metrics: for whoever has a metrics token, or for anybody where the configuration says so."""

from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from typing import Final

import structlog
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from coordinator.accounts.sessions import Sessions
from coordinator.config import Metrics
from coordinator.http.errors import AnyRequest, ApiError
from coordinator.metrics.families import Here, families
from coordinator.metrics.meters import Meters
from coordinator.rest.guard import bearer
from coordinator.store.counted import Counts
from coordinator.store.store import Store
from coordinator.tokens import TokenInvalid

log = structlog.get_logger()

_MOST_ONE_BY_ONE: Final = 1000
"""Machines that get a series of their own: the newest. `hostler_instances` counts all."""


class _Now(Collector):
    def __init__(self, counts: Counts, here: Here, now: datetime) -> None:
        self._said = (counts, here, now)

    def collect(self) -> Iterator[Metric]:
        return families(*self._said)


class Page:
    def __init__(
        self,
        store: Store,
        meters: Meters,
        here: Callable[[], Awaitable[Here]],
        sessions: Sessions,
        clock: Callable[[], datetime],
        settings: Metrics,
    ) -> None:
        self._store = store
        self._meters = meters
        self._here = here
        self._sessions = sessions
        self._clock = clock
        self._open = settings.open
        self._most = _MOST_ONE_BY_ONE if settings.one_by_one else 0

    async def text(self) -> bytes:
        counts = await self._store.counted(self._most)
        now = CollectorRegistry()
        now.register(_Now(counts, await self._here(), self._clock()))
        return generate_latest(now) + generate_latest(self._meters.registry)

    def routes(self) -> list[HTTPRouteHandler]:
        @get("/metrics", include_in_schema=False)
        async def metrics(request: AnyRequest) -> Response[bytes]:
            self._check(request.headers.get("authorization", ""))
            return Response(await self.text(), media_type=CONTENT_TYPE_LATEST)

        return [metrics]

    def _check(self, header: str) -> None:
        if self._open:
            return
        token = bearer(header)
        try:
            self._sessions.check_for_metrics(token)
        except TokenInvalid as error:
            told = str(error) if token else "there is no bearer token in the header Authorization"
            hint = "GET /api/v1/metrics-token gives one; [metrics] open = true asks for none"
            raise ApiError(401, f"{told} ({hint})", error="Authentication failed") from None
