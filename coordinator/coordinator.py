"""The coordinator put together: one asyncio process of store, engine, fleet, HTTP and gRPC."""

import asyncio
import os
import random
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import structlog

from coordinator import doors
from coordinator.accounts.accounts import Accounts
from coordinator.accounts.sessions import Sessions
from coordinator.admin import AdminService
from coordinator.admin_backup import BackupAdmin
from coordinator.admin_hosts import HostAdmin
from coordinator.admin_images import ImageAdmin
from coordinator.admin_providers import ProviderAdmin
from coordinator.cluster.cluster import Cluster
from coordinator.config import CoordinatorConfig
from coordinator.engine import housekeeping
from coordinator.engine.budgets import Budgets
from coordinator.engine.circuits import Circuits
from coordinator.engine.claims import Claims
from coordinator.engine.cloud import CloudExecutor
from coordinator.engine.engine import Engine
from coordinator.engine.inspection import Inspection
from coordinator.engine.local import LocalExecutor
from coordinator.engine.patrol import Patrol
from coordinator.engine.polling import Poller
from coordinator.engine.registrar import Registrar
from coordinator.fleet.entrance import Entrance, Loopback, Revocations
from coordinator.fleet.links import Links
from coordinator.fleet.reconciler import Reconciler
from coordinator.fleet.service import FleetService
from coordinator.fleet.silence import cut_silent_for_ever
from coordinator.fleet.strays import ORPHAN_GRACE, Strays
from coordinator.forges.forges import Forges
from coordinator.http import app, server
from coordinator.http.webhooks import Webhooks
from coordinator.metrics.meters import Meters
from coordinator.metrics.observer import Observer
from coordinator.metrics.page import Page
from coordinator.metrics.process import Process
from coordinator.pki.access import AccessService
from coordinator.pki.authority import Authority
from coordinator.pki.issuer import open_authority
from coordinator.rest import api
from coordinator.rest.fleet import Where
from coordinator.runner_api import scripts
from coordinator.runner_api.routes import RunnerApi
from coordinator.runner_api.waiting import Waiting
from coordinator.store import keys
from coordinator.store.alone import alone
from coordinator.store.signing import Purpose
from coordinator.store.store import Store, open_store
from coordinator.tokens import InstanceTokens
from providers.exec.provider import ExecProvider

log = structlog.get_logger()

_FORGE_TIMEOUT: Final = aiohttp.ClientTimeout(total=30, connect=10)


def _now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return str(uuid.uuid4())


async def run(
    config: CoordinatorConfig,
    stop: asyncio.Event,
    *,
    clock: Callable[[], datetime] = _now,
    orphan_grace: timedelta = ORPHAN_GRACE,
) -> None:
    """Serve until `stop` is set.

    Raises:
        HostlerError: it cannot start as configured.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(alone(config.database_url))
        data_dir = Path(config.data_dir)
        key = keys.find(data_dir, config.secrets.key_file, os.environ)
        store = await open_store(
            config.database_url, data_dir, clock=clock, new_id=_new_id, chance=random.random, key=key
        )
        stack.push_async_callback(store.close)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=_FORGE_TIMEOUT))
        parts = _Parts(config, store, session, clock, orphan_grace, key.path)
        ca = await open_authority(store)
        await parts.cluster.join()
        stack.push_async_callback(parts.cluster.leave)
        await stack.enter_async_context(doors.opened(parts.services(ca), parts.links.close))
        await stack.enter_async_context(server.serve(parts.public, config.http.bind, "http.bind"))
        await stack.enter_async_context(server.serve(parts.for_machines, config.http.runner_bind, "http.runner_bind"))
        tasks = [asyncio.create_task(endless) for endless in parts.endless()]
        stack.push_async_callback(_end, tasks, parts)
        log.info(
            "coordinator is up",
            http=config.http.bind,
            runner_api=config.http.runner_bind,
            grpc=config.grpc.bind,
            controller_id=store.controller_id,
        )
        await stop.wait()
        log.info("coordinator goes down; machines keep running")


class _Parts:
    """What serves: put together once, taken down in the reverse order."""

    def __init__(
        self,
        config: CoordinatorConfig,
        store: Store,
        session: aiohttp.ClientSession,
        clock: Callable[[], datetime],
        orphan_grace: timedelta,
        key_file: Path,
    ) -> None:
        where = scripts.urls(config.http.machines_call)
        tokens = InstanceTokens(store.instance_token_key, clock)
        forges = Forges(store.catalog, session, clock)
        self.waiting = Waiting()
        calls = Path(config.data_dir) / "calls"
        circuits = Circuits(clock, random.random)
        circuits.on_well = store.feed.work.set
        clouds = {
            settings.name: ExecProvider(
                settings, store.controller_id, calls, watched=partial(circuits.watched, settings.name)
            )
            for settings in config.provider
        }
        self.links = links = Links()
        self._revocations = Revocations(store.enrolments.ended, links)
        self.cluster = Cluster(store, links, self.waiting, self._revocations)
        local = LocalExecutor(store, links, tokens, where, clock)
        cloud = CloudExecutor(store, forges, clouds, tokens, where, clock, circuits)
        budgets = Budgets()
        registrar = Registrar(store, forges, self.waiting, budgets, clock, random.random)
        self.engine = Engine(store, links, local, cloud, registrar, budgets, config.planner.policy, clock)
        self.strays = Strays(store, Claims(store, registrar).of, orphan_grace)
        self.reconciler = Reconciler(store, local.resend, self.strays)
        inspection = Inspection(store, registrar, clouds, config.planner.policy.host_lease, clock)
        every = timedelta(seconds=config.planner.patrol_seconds)
        self.patrol = Patrol(store, inspection, every, clock, random.random)
        poll_every = timedelta(seconds=config.planner.poll_seconds)
        self.poller = Poller(store, registrar, budgets, poll_every, clock, random.random)
        self._keep = timedelta(days=config.retention.days)
        self._store = store
        self._settings = config.grpc
        self._clock = clock
        self.fleet = self._fleet(Loopback())
        hosts = HostAdmin(store, links, config.planner.policy, self._revocations.cut)
        providers = ProviderAdmin(store, clouds, circuits, clock)
        backup = BackupAdmin(store.backups, Path(config.data_dir), key_file)
        self.admin = AdminService(store, hosts, ImageAdmin(store, links), self.engine, providers, backup)
        webhooks = Webhooks(store.catalog, store.ledger, store.controller_id, clock)
        keys_of = store.signing_keys
        sessions = Sessions(keys_of[Purpose.ADMIN], keys_of[Purpose.METRICS], clock, _new_id)
        accounts = Accounts(store, sessions, time.monotonic)
        said = Where(config.http.public_url, where.metadata, where.callback, tuple(clouds))
        meters = Meters()
        self.engine.on_planned, webhooks.on_received = meters.planned, meters.webhook
        self._observer = Observer(store, meters)
        process = Process(store, said, self.engine, links, budgets, circuits, clock)
        page = Page(store, meters, process.here, sessions, clock, config.metrics)
        rest = api.router(store, accounts, said, registrar.may_go, forges.hooks_of)
        self.public = app.public(webhooks, rest, page.routes())
        self.for_machines = app.for_machines(RunnerApi(store, forges, tokens, where, self.waiting))

    def services(self, ca: Authority) -> doors.Services:
        """What the gRPC listeners serve."""
        access = AccessService(self._store, ca, self._settings.clients_address, self._revocations.cut)
        return doors.Services(self._store, self._settings, ca, self._fleet, self.admin, access, self._clock)

    def _fleet(self, entrance: Entrance) -> FleetService:
        return FleetService(self._store, self.links, self.reconciler, self.strays, entrance)

    def endless(self) -> Iterable[Coroutine[Any, Any, None]]:
        """What runs beside the servers, for as long as they do."""
        yield self.engine.run()
        yield self.patrol.run()
        yield self.poller.run()
        yield self._observer.run()
        yield cut_silent_for_ever(self.links)
        yield housekeeping.prune_for_ever(self._store, self._keep)


async def _end(tasks: "Sequence[asyncio.Task[None]]", parts: _Parts) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await parts.patrol.close()
    await parts.poller.close()
    await parts.engine.close()
    await parts.cluster.let_another_plan()
    parts.strays.close()
    parts.waiting.close()
