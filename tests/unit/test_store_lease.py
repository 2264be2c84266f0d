"""The planning lease and its fencing number, and what coordinators tell each other: what one process can show."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.instance import Instance
from coordinator.domain.world import Create, Plan
from coordinator.store import telling
from coordinator.store.changed import Changes
from coordinator.store.lease import LEASE_SECONDS, LeaseLost
from coordinator.store.schema import planning_lease
from coordinator.store.telling import Told
from tests.samples.domain import calm
from tests.samples.store import Sample, open_bare, open_sample


async def _plan(sample: Sample, number: int) -> Plan:
    job = await sample.queue(number)
    return Plan(creates=(Create(sample.pool, "host-1", job.id),))


async def _takes_over(sample: Sample) -> None:
    """Another coordinator is the holder now."""
    async with sample.store._database.write() as connection:
        values = {"holder": "another", "fencing": planning_lease.c.fencing + 1, "expires_at": 2**62}
        await connection.execute(sa.update(planning_lease).values(values))


async def test_who_has_not_asked_for_the_lease_commits_no_plan(tmp_path: Path, database_url: str) -> None:
    async with open_sample(tmp_path, database_url) as holder, open_bare(tmp_path, database_url, kind=1) as other:
        plan = await _plan(holder, 1)
        assert other.store.lease.number is None
        with pytest.raises(LeaseLost):
            await other.store.planning.commit(plan)
        assert await holder.store.instances.alive() == []
        assert len(await holder.store.planning.commit(plan)) == 1


async def test_who_lost_the_lease_without_knowing_it_commits_nothing(tmp_path: Path, database_url: str) -> None:
    async with open_sample(tmp_path, database_url) as sample:
        made = await sample.instance(1)
        plan = await _plan(sample, 2)
        await _takes_over(sample)
        assert sample.store.lease.number is not None  # it believes so
        with pytest.raises(LeaseLost, match="nothing was committed"):
            await sample.store.planning.commit(plan)
        with pytest.raises(LeaseLost):
            await sample.store.instances.configure_runner(made.id, 7, {".runner": b"of the former holder"})
        assert [instance.id for instance in await sample.store.instances.alive()] == [made.id]
        assert (await sample.now(made)).forge_runner_id == 0


async def test_who_lost_the_lease_retires_nobody_by_plan_and_believes_no_forge(
    tmp_path: Path, database_url: str
) -> None:
    async with open_sample(tmp_path, database_url) as sample:
        planned, reported = await sample.instance(1), await sample.instance(2)
        await _takes_over(sample)
        with pytest.raises(LeaseLost):
            await sample.store.instances.retire(planned.id, "idle", fenced=True)
        with pytest.raises(LeaseLost):
            await sample.store.instances.mark_busy(planned.id)
        assert await sample.now(planned) == planned
        # What a host says is true whoever plans.
        assert await sample.store.instances.retire(reported.id, "it vanished")


async def test_of_a_plan_in_parts_what_was_written_before_the_lease_was_lost_is_there_for_the_next(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.store.batch._PARAMETERS", 1)
    async with open_sample(tmp_path, database_url) as sample:
        plan = Plan(creates=(*(await _plan(sample, 1)).creates, *(await _plan(sample, 2)).creates))
        real = sample.store.planning._commit
        commits = 0

        async def commit(creates: Sequence[Create]) -> list[Instance]:
            nonlocal commits
            commits += 1
            if commits == 2:
                await _takes_over(sample)
            return await real(creates)

        monkeypatch.setattr(sample.store.planning, "_commit", commit)
        with pytest.raises(LeaseLost):
            await sample.store.planning.commit(plan)
        assert [one.for_job for one in (await sample.store.planning.world({})).instances] == [plan.creates[0].for_job]


async def test_the_number_grows_with_each_holder_and_stays_with_each_beat(tmp_path: Path, database_url: str) -> None:
    numbers = []
    for kind in (1, 2, 3):
        async with open_bare(tmp_path, database_url, kind=kind) as sample:
            await sample.store.members.beat({})
            first = sample.store.lease.number
            await sample.store.members.beat({})
            assert sample.store.lease.number == first
            numbers.append(first)
            await sample.store.members.release()
            assert sample.store.lease.number is None
            await sample.store.members.leave()
    assert numbers == [1, 2, 3]


async def test_a_lease_that_could_not_be_renewed_is_not_believed_in(tmp_path: Path) -> None:
    async with open_bare(tmp_path) as sample:
        lease = sample.store.lease
        told: list[int | None] = []
        lease.on_change = lambda: told.append(lease.number)
        lease.held(5, time.monotonic(), alone=False)
        assert told == [lease.number] == [5]
        lease.held(5, time.monotonic() - LEASE_SECONDS - 1, alone=False)
        assert lease.number is None


async def test_a_host_is_connected_while_the_coordinator_of_its_stream_lives(tmp_path: Path, database_url: str) -> None:
    async def connected(sample: Sample) -> bool:
        return (await sample.store.hosts.all())[0].connected

    async with open_sample(tmp_path, database_url) as sample:
        assert await connected(sample)
        await sample.store.hosts.present(sample.host(), 2, "agent")
        await sample.store.hosts.left("host-1", 1, sample.clock())  # the older stream ends after the newer has begun
        assert await connected(sample)
        await sample.store.hosts.left("host-1", 2, sample.clock())
        assert not await connected(sample)
        await sample.store.hosts.present(sample.host(), 3, "agent")
        await sample.store.members.leave()
        assert not await connected(sample)
        sample.store.feed.take()
        await sample.store.members.beat({"host-1": 3})  # taken for dead, it is not: its streams are there still
        assert await connected(sample)
        assert sample.store.feed.take().hosts == {"host-1"}


ids = st.sets(st.text(min_size=1, max_size=300), max_size=60)


@calm
@given(st.builds(Changes, jobs=ids, instances=ids, hosts=ids, configured=ids, catalog=st.booleans()))
def test_what_is_told_in_pieces_is_heard_whole_or_as_everything(changes: Changes) -> None:
    heard = Changes()
    for piece in telling.split(changes):
        payload = telling.encode(Told("x" * 36, piece))
        assert len(payload.encode()) < 8000
        heard.take_in(telling.decode(payload).changes)
    assert heard.everything or heard == changes


def test_a_thousand_ids_are_told_one_by_one_and_ten_thousand_as_everything() -> None:
    few, many = ({f"{number:036}" for number in range(count)} for count in (1000, 10_000))
    assert not any(piece.everything for piece in telling.split(Changes(jobs=few)))
    assert telling.split(Changes(jobs=many)) == [Changes(everything=True)]
