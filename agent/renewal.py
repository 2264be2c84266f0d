"""Renews this host's certificate in time, with a new key each time, over the connection that the old one opens."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import grpc.aio
import structlog

from agent import identity, newkey
from agent.backoff import Backoff
from agent.dial import Way
from agent.identity import Identity
from agent.link import Runnable
from hostler.errors import HostlerError
from protos.hostler.v1 import access_pb2 as pb
from protos.hostler.v1.access_pb2_grpc import RenewalStub

_RETRY: Final = Backoff(first_seconds=5.0, most_seconds=600.0)
_SECONDS: Final = 30.0
_LOOK_AGAIN_SECONDS: Final = 60.0
"""Whether the host was enrolled (anew), and what the clock says: it may have been put."""

_log = structlog.get_logger(__name__)


class RenewalFailed(HostlerError):
    code = "renewal_failed"


class Renewal:
    """`renewed` is set each time that there is a newer certificate to connect with."""

    def __init__(
        self,
        data_dir: Path,
        find: Callable[[], Way],
        *,
        now: Callable[[], datetime],
        rng: random.Random,
        retry: Backoff = _RETRY,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._data_dir = data_dir
        self._find = find
        self._now = now
        self._rng = rng
        self._retry = retry
        self._sleep = sleep
        self.renewed = asyncio.Event()

    async def run(self) -> None:
        """For ever."""
        attempt = 0
        held: Identity | None = None
        due = self._now()
        while True:
            try:
                way = self._find()
            except HostlerError:  # the link says what is wrong
                await self._sleep(_LOOK_AGAIN_SECONDS)
                continue
            if way.identity is None:
                await self._sleep(_LOOK_AGAIN_SECONDS)
                continue
            if way.identity != held:
                held, attempt = way.identity, 0
                due = held.renew_at(self._rng.random())
            left = (due - self._now()).total_seconds()
            if left > 0:
                await self._sleep(min(left, _LOOK_AGAIN_SECONDS))
                continue
            try:
                await self.renew(way, held)
            except HostlerError as error:
                delay = self._retry.delay(attempt, self._rng)
                attempt += 1
                _log.warning(
                    "the certificate was not renewed, trying again",
                    error=str(error),
                    retry_seconds=round(delay),
                    expires_at=held.expires_at.isoformat(),
                )
                await self._sleep(min(delay, _share(held)))

    async def renew(self, way: Way, held: Identity) -> None:
        """
        Raises:
            HostlerError: it could not be had now.
        """
        new = await newkey.make()
        async with way.channel() as channel:
            try:
                answer = await RenewalStub(channel).Renew(pb.RenewRequest(csr=new.csr), timeout=_SECONDS)
            except grpc.aio.AioRpcError as error:
                raise RenewalFailed(f"{way.address}: {error.code().name}: {error.details()}") from error
        given = identity.made(
            host=held.host,
            address=answer.agents_address,
            ca=answer.ca,
            certificate=answer.certificate,
            key=new.key,
            life_seconds=answer.life_seconds,
            now=self._now(),
        )
        await asyncio.to_thread(identity.save, self._data_dir, given)
        _log.info("certificate renewed", expires_at=given.expires_at.isoformat())
        self.renewed.set()


class UntilRenewed:
    """A session that ends in good order when the next begins otherwise: with a newer certificate, or other drivers."""

    def __init__(self, session: Callable[[], Runnable], renewed: asyncio.Event) -> None:
        self._session = session
        self._renewed = renewed

    async def run(self, stop: asyncio.Event) -> None:
        self._renewed.clear()
        end = asyncio.Event()
        waits = [asyncio.create_task(either.wait()) for either in (stop, self._renewed)]
        for wait in waits:
            wait.add_done_callback(lambda _: end.set())
        try:
            await self._session().run(end)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


def _share(held: Identity) -> float:
    """The longest pause between two tries: a twentieth of a certificate's life."""
    return (held.expires_at - held.received_at).total_seconds() / 20
