"""What people say of hosts (cordon, drain, remove) and of instances, and the end of rows of hosts that are lost."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.domain import changes
from coordinator.domain.changes import Step
from coordinator.domain.fleet import Admission
from coordinator.domain.instance import Instance, RunnerStatus, Status, advance, can, can_runner
from coordinator.domain.timeline import Entry
from coordinator.store import changed, instance_rows, timelines
from coordinator.store.audit import Audit
from coordinator.store.database import Database
from coordinator.store.enrolments import shut_out
from coordinator.store.feed import Feed
from coordinator.store.hosts import unknown
from coordinator.store.lease import Lease
from coordinator.store.retrying import retried
from coordinator.store.schema import host_images, hosts, instances
from hostler.errors import HostlerError

_ALIVE: Final = instances.c.status != Status.DELETED


class HostInUse(HostlerError):
    """The host cannot be removed now."""

    code = "host_in_use"


class Removed(msgspec.Struct, frozen=True):
    """What there was of a host that was removed."""

    lost: list[str]  # names of instances whose rows have ended
    connected: bool
    enrolled: bool  # it had a certificate that opened something
    invitations: int  # open ones


class Upkeep:
    def __init__(
        self, database: Database, audit: Audit, feed: Feed, lease: Lease, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._audit = audit
        self._feed = feed
        self._lease = lease
        self._clock = clock

    # --- people ---

    @retried
    async def admit(self, name: str, admission: Admission, reason: str = "", deadline: datetime | None = None) -> None:
        """Say whether a host takes new machines. `deadline`: when a drain stops what is still busy.

        Raises:
            UnknownHost: there is none of that name.
        """
        said = {"admission": admission, "admission_reason": reason, "drain_deadline": deadline}
        async with self._database.write() as connection:
            found = await connection.execute(sa.update(hosts).where(hosts.c.name == name).values(said))
            if not found.rowcount:
                await unknown(connection, name)
            await self._audit.write(connection, f"admission {admission}", f"host {name}", after={"reason": reason})
            changed.of(connection).hosts.add(name)

    @retried
    async def remove(self, name: str, *, force: bool) -> Removed:
        """Forget a host, its enrolment and its invitations; with `force` the rows of its instances end as lost.

        One that was invited and has never connected may be removed as well.

        Raises:
            UnknownHost: there is nothing of that name.
            HostInUse: it is connected without a certificate, or has instances and is not to be forced.
        """
        now = self._clock()
        async with self._database.write() as connection:
            here = await instance_rows.of_host(connection, name)
            # Before the host is looked for: who connects by it at this moment is waited for, or is shut out.
            had = await shut_out(connection, name, now)
            row = (await connection.execute(_locked(name))).first()
            if row is None:
                if not had:
                    await unknown(connection, name)
                return Removed([], connected=False, enrolled=bool(had.enrolments), invitations=had.invitations)
            if row.coordinator and not had.enrolments:
                raise HostInUse(
                    f"host '{name}' is connected without a certificate to revoke, and would come back at once",
                    hint="stop its agent first, for good",
                )
            count = await connection.scalar(
                sa.select(sa.func.count()).select_from(instances).where(_ALIVE, instances.c.host == name)
            )
            if count and not force:
                raise HostInUse(
                    f"host '{name}' has {count} instances",
                    hint=f"see them with `hostler host show {name}`, and drain it; with --force they end here as lost, "
                    "and what runs there is nobody's",
                )
            if count != len(here):
                raise HostInUse(f"host '{name}' has got instances meanwhile", hint="cordon it, then try again")
            entries = await _end(connection, here, now, f"its host {name} was removed")
            await connection.execute(sa.delete(host_images).where(host_images.c.host == name))
            await connection.execute(sa.delete(hosts).where(hosts.c.name == name))
            await self._audit.write(connection, "removed", f"host {name}", before={"instances": len(here)})
            changed.of(connection).hosts.add(name)
        self._feed.publish(entries)
        return Removed(
            [instance.name for instance in here],
            connected=bool(row.coordinator),
            enrolled=bool(had.enrolments),
            invitations=had.invitations,
        )

    @retried
    async def dismiss(self, instance: Instance, *, force: bool) -> bool:
        """Send an instance on its way to deletion; nothing happens where it is on its way already.

        Args:
            instance: as it was when the forge let its runner go.
            force: also when its runner has a job, and for good when its provider cannot delete it.

        Returns False when its runner was registered or has got a job since then: nothing was changed.
        """
        now = self._clock()
        async with self._database.write() as connection:
            found = await instance_rows.by_ids(connection, [instance.id])
            if not found:
                return True
            if not force and not _as_free_as(found[0], instance):
                return False
            status = Status.PENDING_FORCE_DELETE if force else Status.PENDING_DELETE
            if not can(found[0], status):
                return True
            runner = RunnerStatus.TERMINATED if can_runner(found[0], RunnerStatus.TERMINATED) else None
            gone = advance(found[0], now, status=status, runner_status=runner)
            entry = Entry(Step.RETIRED, now, "", instance.id, "somebody deleted it")
            await connection.run_sync(instance_rows.save, [gone])
            await connection.run_sync(timelines.append, [entry])
            before = {"status": found[0].status.value, "runner_status": found[0].runner_status.value}
            after = {"status": status.value}
            await self._audit.write(connection, "deleted", f"instance {instance.name}", before=before, after=after)
        self._feed.publish([entry])
        return True

    # --- what the planner finds ---

    @retried
    async def lose(self, instance_id: str, reason: str, *, only_if: RunnerStatus | None) -> None:
        """End the row of an instance whose host is away.

        Where the host has come back meanwhile, the instance is sent on its way to deletion like any other: the host
        has said what it holds already, and would not be asked again.

        Args:
            only_if: what its runner was when this was decided; when it is something else now, nothing is done. None:
                its runner is deregistered; nothing is done only if it has a job.

        Raises:
            LeaseLost: another coordinator decides now.
        """
        now = self._clock()
        async with self._database.write() as connection:
            await connection.run_sync(self._lease.check)
            found = await instance_rows.by_ids(connection, [instance_id])
            if not found or found[0].status is Status.DELETED:
                return
            if found[0].job_id if only_if is None else found[0].runner_status is not only_if:
                return
            row = (await connection.execute(_locked(found[0].host))).first()
            if row is None or not row.coordinator:
                entries = await _end(connection, found, now, reason)
            elif can(found[0], Status.PENDING_DELETE):
                entries = [Entry(Step.RETIRED, now, "", instance_id, reason)]
                await connection.run_sync(instance_rows.save, [changes.finish(found[0], now)])
                await connection.run_sync(timelines.append, entries)
            else:
                return
        self._feed.publish(entries)

    @retried
    async def drained(self, name: str) -> bool:
        """A host that was to be emptied is empty, if it is so.

        Raises:
            LeaseLost: another coordinator decides now.
        """
        async with self._database.write() as connection:
            await connection.run_sync(self._lease.check)
            row = (await connection.execute(_locked(name))).first()
            if row is None or row.admission != Admission.DRAINING:
                return False
            if await connection.scalar(sa.select(sa.exists().where(_ALIVE, instances.c.host == name))):
                return False
            done = {"admission": Admission.DRAINED, "drain_deadline": None}
            await connection.execute(sa.update(hosts).where(hosts.c.name == name).values(done))
            changed.of(connection).hosts.add(name)
        self._feed.publish([Entry(Step.DRAINED, self._clock(), detail=name)])
        return True

    async def lost(self, before: datetime) -> frozenset[str]:
        """Names of the hosts that have been away since before then."""
        away = (hosts.c.coordinator == "") & (hosts.c.disconnected_at <= before)
        async with self._database.read() as connection:
            return frozenset(await connection.scalars(sa.select(hosts.c.name).where(away)))


def _as_free_as(now: Instance, then: Instance) -> bool:
    """What the forge said then is still true: the same runner, and no job since."""
    busy = now.runner_status is RunnerStatus.ACTIVE or now.job_id
    return now.forge_runner_id == then.forge_runner_id and not busy


def _locked(name: str) -> sa.Select[Any]:
    """Locked for the transaction: its agent cannot connect before the end of it."""
    return sa.select(hosts.c.coordinator, hosts.c.admission).where(hosts.c.name == name).with_for_update()


async def _end(connection: AsyncConnection, here: Sequence[Instance], now: datetime, reason: str) -> list[Entry]:
    entries = [Entry(Step.LOST, now, instance_id=instance.id, detail=reason) for instance in here]
    await connection.run_sync(instance_rows.save, [changes.lose(instance, now, reason) for instance in here])
    await instance_rows.forget_files(connection, [instance.id for instance in here])
    await connection.run_sync(timelines.append, entries)
    return entries
