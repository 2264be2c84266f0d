"""The audit log in the store: every change of people leaves an entry in its own transaction, and no secret."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from coordinator.accounts.roles import Actor, Role, acting
from coordinator.domain.fleet import Admission
from coordinator.store.schema import audit, audit_head
from coordinator.store.writing import UnknownReference
from tests.samples.domain import NOW
from tests.samples.store import DOCUMENT, FORGE_TOKEN, WEBHOOK_SECRET, Sample, open_sample


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


async def _log(sample: Sample) -> list[str]:
    """The oldest first."""
    entries = await sample.store.audit.page(most=1000)
    return [f"{entry.actor} {entry.action} {entry.target}" for entry in reversed(entries)]


async def test_what_is_declared_is_told_without_its_secrets(sample: Sample) -> None:
    assert await _log(sample) == [
        "local created endpoint forge",
        "local created credentials token",
        "local created flavor small",
        "local created repository Octo/Widgets",
        "local created pool linux",
    ]
    acting.set(Actor("token:ci", Role.ADMIN, "grpc"))
    changed = DOCUMENT.replace("max_runners = 3", "max_runners = 4").replace(FORGE_TOKEN, FORGE_TOKEN + "-new")
    await sample.apply(changed)
    newest = await sample.store.audit.page(most=2)
    assert [(one.target, one.actor, one.before, one.after) for one in newest] == [
        ("pool linux", "token:ci", '{"max_runners":3}', '{"max_runners":4}'),
        ("credentials token", "token:ci", '{"token":"***"}', '{"token":"***"}'),
    ]
    everything = str(await sample.store.audit.page(most=1000))
    assert FORGE_TOKEN not in everything
    assert WEBHOOK_SECRET not in everything
    assert (await sample.store.audit.verify()).fault == ""


async def test_what_changes_nothing_or_fails_leaves_no_entry(sample: Sample) -> None:
    before = await _log(sample)
    await sample.apply(DOCUMENT)
    with pytest.raises(UnknownReference):
        await sample.apply(
            DOCUMENT.replace("max_runners = 3", "max_runners = 4").replace('"small"\nlabels', '"x"\nlabels')
        )
    assert await _log(sample) == before


async def test_hosts_tokens_and_users_are_told_of(sample: Sample) -> None:
    store, now = sample.store, sample.clock()
    before = len(await _log(sample))
    await store.upkeep.admit("host-1", Admission.CORDONED, "a new disk")
    await store.enrolments.invite("host-2", "a" * 64, now + timedelta(hours=1))
    await store.enrolments.revoke("host-2")
    await store.admin_tokens.keep("ci", "b" * 64, now + timedelta(days=1), Role.VIEWER)
    await store.admin_tokens.revoke("ci")
    user = await store.users.add("ada", "ada@example.org", "Ada", Role.VIEWER, "hash-of-hers")
    await store.users.change(user.id, role=Role.OPERATOR, password_hash="another")
    await store.users.remove(user.id)
    assert (await _log(sample))[before:] == [
        "local admission cordoned host host-1",
        "local invited host host-2",
        "local revoked host host-2",
        "local created token ci",
        "local removed token ci",
        "local created user ada",
        "local updated user ada",
        "local removed user ada",
    ]
    assert "hash-of-hers" not in str(await store.audit.page())
    assert (await store.audit.verify()).entries == before + 8


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (sa.update(audit).where(audit.c.number == 2).values(actor="user:eve"), "entry 2 is not as it was written"),
        (
            sa.update(audit).where(audit.c.number == 5).values(at=NOW + timedelta(microseconds=1)),
            "entry 5 is not as it was written",
        ),
        (sa.delete(audit).where(audit.c.number == 3), "entry 3 is missing: the next one there is 4"),
        (sa.delete(audit).where(audit.c.number == 5), "the log had 5 entries, and 4 are there"),
        (sa.delete(audit), "the log had 5 entries, and 0 are there"),
        (sa.delete(audit_head), "the head of the log is missing"),
        (sa.update(audit_head).values(number=4), "the head of the log is not as it was written"),
    ],
)
async def test_damage_is_found(sample: Sample, damage: sa.Executable, fault: str) -> None:
    assert (await sample.store.audit.verify()).fault == ""
    async with sample.store._database.write() as connection:
        await connection.execute(damage)
    assert fault in (await sample.store.audit.verify()).fault


async def test_entries_that_changed_places_are_found(sample: Sample) -> None:
    async with sample.store._database.write() as connection:
        for old, new in ((2, 99), (3, 2), (99, 3)):
            await connection.execute(sa.update(audit).where(audit.c.number == old).values(number=new))
    assert "entry 2 is not as it was written" in (await sample.store.audit.verify()).fault
