"""The agent put together: provider, keeper, outbox and link, from start to stop."""

import asyncio
import fcntl
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import structlog

from agent import dial, host, link, memory, wire
from agent.backoff import Backoff
from agent.config import AgentConfig
from agent.dial import Way
from agent.endings import Endings
from agent.image_news import ImageNews
from agent.keeper import Keeper
from agent.outbox import Outbox
from agent.pressure import Gauge
from agent.renewal import Renewal, UntilRenewed
from agent.session import Session
from agent.several import DriverOut, Several
from hostler import __version__
from hostler.errors import HostlerError
from hostler.folders import why_unusable
from protos.hostler.v1 import fleet_pb2 as pb
from providers.contract import HostProvider, Resources
from providers.images.store import ImageStore

_DELETE_RETRY: Final = Backoff(first_seconds=1.0, most_seconds=60.0)
# More than processors: for half of its time a create waits, for the disk, the kernel, a new QEMU.
_CREATES_AT_ONCE: Final = max(10, 2 * len(os.sched_getaffinity(0)))
_CLOSE_SECONDS: Final = 5.0
_LOCK: Final = "agent.lock"

_log = structlog.get_logger(__name__)


class DataDirUnusable(HostlerError):
    code = "data_dir_unusable"


class Agent:
    """One agent of one host. `run` is called once."""

    def __init__(
        self,
        config: AgentConfig,
        provider: HostProvider,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        rng: random.Random | None = None,
        reconnect: Backoff = link.RECONNECT,
        delete_retry: Backoff = _DELETE_RETRY,
        create_grace_seconds: float = 30.0,
    ) -> None:
        self._config = config
        self._provider = provider
        self._now = now
        self._run = str(uuid.uuid4())
        self._rng = rng or random.SystemRandom()
        self._reconnect = reconnect
        self._endings = Endings(config.data_path / "endings.jsonl", now=now)
        self._outbox = Outbox()
        self._disk_gib = _total(config).disk_gib
        self._image_news = ImageNews(self._outbox.changed.set)
        self._images = ImageStore(config.images_path, config.images.room(self._disk_gib), config.finish_image)
        self._images.on_change = self._image_news.put
        self._renewal = Renewal(config.data_path, self._way, now=now, rng=self._rng)
        if isinstance(provider, Several):
            # Hello anew: what can be used now, and what a provider that is back holds.
            provider.on_change = self._renewal.renewed.set
        self._gauge = Gauge(config.capacity.low)
        self._keeper = Keeper(
            provider,
            self._outbox,
            self._endings,
            now=now,
            rng=self._rng,
            retry=delete_retry,
            creates_at_once=_CREATES_AT_ONCE,
            create_grace_seconds=create_grace_seconds,
            images=self._images,
            refusal=self._gauge.refusal,
            released=memory.give_back,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set. Machines keep running afterwards.

        Raises:
            HostlerError: it could not start.
        """
        with _sole_owner(self._config.data_path):
            self._way()  # what is wrong with the configuration is told at once
            self._endings.load()
            capacity = await asyncio.to_thread(self._capacity)
            await self._provider.open(self._keeper.stopped)
            renewing: asyncio.Task[None] | None = None
            try:
                await self._images.open()
                _check_file_systems(self._config)
                await self._keeper.adopt()
                renewing = asyncio.create_task(self._renewal.run(), name="renewal")
                await link.keep(
                    lambda: UntilRenewed(lambda: self._session(capacity), self._renewal.renewed),
                    stop,
                    rng=self._rng,
                    monotonic=time.monotonic,
                    backoff=self._reconnect,
                )
            finally:
                if renewing is not None:
                    renewing.cancel()
                    await asyncio.gather(renewing, return_exceptions=True)
                await self._keeper.close(_CLOSE_SECONDS)
                await self._images.close()
                await self._provider.close()

    def _capacity(self) -> Resources:
        return capacity(self._config, _total(self._config))

    def _way(self) -> Way:
        """How the coordinator is reached as things are now."""
        return dial.find(self._config.data_path, self._config.host.name, self._config.coordinator, self._now())

    async def _inventory(self) -> pb.Inventory:
        return wire.inventory(await self._keeper.inventory())

    async def _usage(self) -> host.Usage:
        return await asyncio.to_thread(host.usage, self._config.instances_path)

    def _session(self, capacity: Resources) -> Session:
        async def hello() -> pb.Hello:
            self._gauge.read(await self._usage())
            inventory = await self._inventory()
            self._image_news.clear()
            return pb.Hello(
                host=self._config.host.name,
                agent_version=__version__,
                arch=host.arch(),
                capacity=wire.resources_out(msgspec.structs.replace(capacity, devices=self._provider.devices)),
                inventory=inventory,
                drivers=[wire.driver_out(driver) for driver in self._provider.drivers],
                drivers_out=[wire.driver_is_out(name, reason) for name, reason in drivers_out(self._provider).items()],
                agent_run=self._run,
                images=[wire.image_report(status) for status in self._images.statuses()],
                pressure=wire.pressure(self._gauge.pressure),
            )

        return Session(
            way=self._way(),
            hello=hello,
            inventory=self._inventory,
            usage=self._usage,
            gauge=self._gauge,
            commands=self._keeper,
            outbox=self._outbox,
            image_news=self._image_news,
            now=self._now,
        )


async def check(config: AgentConfig, provider: HostProvider) -> bool:
    """Everything that must be well for an agent to start. Opening a provider may prepare what it needs, as its network.

    Returns:
        Whether the provider was opened. Opening it takes note of machines that have ended, which then nobody tells: so
        it is left alone while an agent has it open.

    Raises:
        HostlerError: what is not.
    """
    config.check_files()
    config.check_devices()
    dial.find(config.data_path, config.host.name, config.coordinator, datetime.now(UTC))
    host.arch()
    reason = why_unusable(config.data_path)
    if reason:
        raise DataDirUnusable(f"key 'data_dir': {reason}", hint="name a folder that this user may write to")
    capacity(config, await asyncio.to_thread(_total, config))
    with _unless_in_use(config.data_path) as free:
        if free:
            await provider.open(lambda _: None)
            out = drivers_out(provider)
            await provider.close()
            if out:
                raise DriverOut(
                    "; ".join(sorted(set(out.values()))), hint="an agent would begin without it, and try again"
                )
    return free


def drivers_out(provider: HostProvider) -> dict[str, str]:
    """Drivers that cannot be used now, and why."""
    return provider.out if isinstance(provider, Several) else {}


@contextmanager
def _unless_in_use(directory: Path) -> Iterator[bool]:
    """Whether no agent serves `directory`; within the block none comes. Makes nothing."""
    try:
        lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    try:
        yield _locked(lock)
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_file_systems(config: AgentConfig) -> None:
    images, instances = config.images_path, config.instances_path
    if instances.exists() and instances.stat().st_dev != images.stat().st_dev:
        raise DataDirUnusable(
            f"{instances} and {images} are on different file systems, and a machine holds its image by a hard link",
            hint="mount the file system at data_dir itself",
        )


def _total(config: AgentConfig) -> Resources:
    return host.total(config.instances_path, config.images_path)


def capacity(config: AgentConfig, total: Resources) -> Resources:
    """What instances may use: the rest is for the host itself and for images.

    Raises:
        ConfigError: there is no rest.
    """
    without_images = msgspec.structs.replace(total, disk_gib=total.disk_gib - config.kept_for_images(total.disk_gib))
    return host.capacity(without_images, config.capacity.reserve)


@contextmanager
def _sole_owner(directory: Path) -> Iterator[None]:
    """Two agents on one data_dir would delete each other's machines. The kernel lets go of the lock however we end."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataDirUnusable(f"key 'data_dir': {directory} cannot be used: {error}") from error
    try:
        if not _locked(lock):
            raise DataDirUnusable(f"{directory} is in use by another agent", hint="one agent per data_dir")
        yield
    finally:
        os.close(lock)
