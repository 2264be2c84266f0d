"""Invitations, enrolments and tokens in the database: what is used up, what stands, what is told, in both engines."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from coordinator.pki.issuer import open_authority
from coordinator.store.admin_tokens import NoSuchToken, TokenNameTaken
from coordinator.store.enrolments import (
    Enrolments,
    InvitationExpired,
    InvitationForeign,
    InvitationRefused,
    InvitationUnknown,
    InvitationUsed,
    NotEnrolled,
)
from coordinator.store.schema import authority, enrolments
from tests.samples.store import Sample, open_sample

HOUR = timedelta(hours=1)


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


def token() -> str:
    """What a token's hash looks like."""
    return uuid.uuid4().hex * 2


def new_id() -> str:
    return str(uuid.uuid4())


async def invite(sample: Sample, host: str = "build-1", life: timedelta = HOUR) -> str:
    made = token()
    await sample.store.enrolments.invite(host, made, sample.clock() + life)
    return made


async def enrol(sample: Sample, host: str = "build-1") -> str:
    made, enrolment = await invite(sample, host), new_id()
    await sample.store.enrolments.enrol(host, made, enrolment)
    return enrolment


async def test_an_invitation_is_used_once_and_makes_one_enrolment(sample: Sample) -> None:
    kept: Enrolments = sample.store.enrolments
    made, enrolment = await invite(sample), new_id()
    assert await kept.standing(enrolment) is None
    await kept.enrol("build-1", made, enrolment)
    standing = await kept.standing(enrolment)
    assert standing is not None
    assert (standing.host, standing.ended) == ("build-1", "")
    with pytest.raises(InvitationUsed, match="was used at"):
        await kept.enrol("build-1", made, new_id())


async def test_of_many_that_use_one_invitation_at_once_one_succeeds(sample: Sample) -> None:
    made = await invite(sample)
    tries = [sample.store.enrolments.enrol("build-1", made, new_id()) for _ in range(8)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert answers.count(None) == 1
    assert sum(isinstance(answer, InvitationUsed) for answer in answers) == 7


async def test_of_many_invitations_of_one_host_used_at_once_one_enrols(sample: Sample) -> None:
    made = [await invite(sample) for _ in range(6)]
    ids = [new_id() for _ in made]
    tries = [sample.store.enrolments.enrol("build-1", one, number) for one, number in zip(made, ids, strict=True)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert answers.count(None) == 1
    assert sum(isinstance(answer, InvitationUsed) for answer in answers) == 5
    assert await sample.store.enrolments.ended([ids[answers.index(None)]]) == set()


async def test_an_older_invitation_does_not_take_the_place_of_the_host_that_has_enrolled(sample: Sample) -> None:
    older, newer, others = await invite(sample), await invite(sample), await invite(sample, "build-2")
    await sample.store.enrolments.enrol("build-1", newer, new_id())
    with pytest.raises(InvitationUsed, match="was withdrawn"):
        await sample.store.enrolments.enrol("build-1", older, new_id())
    await sample.store.enrolments.enrol("build-2", others, new_id())
    again = await invite(sample)
    await sample.store.enrolments.enrol("build-1", again, new_id())


async def test_a_refused_invitation_is_not_used_up(sample: Sample) -> None:
    kept = sample.store.enrolments
    made = await invite(sample)
    with pytest.raises(InvitationForeign, match="is for the host 'build-1', and this one is called 'build-2'"):
        await kept.enrol("build-2", made, new_id())
    with pytest.raises(InvitationUnknown):
        await kept.enrol("build-1", token(), new_id())
    await kept.enrol("build-1", made, new_id())
    late = await invite(sample, life=timedelta(seconds=1))
    sample.clock.now += timedelta(seconds=1)
    with pytest.raises(InvitationExpired):
        await kept.enrol("build-1", late, new_id())
    assert issubclass(InvitationExpired, InvitationRefused)


async def test_revoking_ends_what_stands_and_is_open_and_is_told(sample: Sample) -> None:
    kept = sample.store.enrolments
    first = await enrol(sample)
    other = await enrol(sample, "build-2")
    open_one = await invite(sample)
    assert await kept.revoke("build-1") == 1
    assert await kept.ended([first, other]) == {first}
    with pytest.raises(InvitationUsed, match="was withdrawn at"):
        await kept.enrol("build-1", open_one, new_id())
    with pytest.raises(NotEnrolled, match="has no certificate and no open invitation"):
        await kept.revoke("build-1")
    again = await enrol(sample)
    assert await kept.ended([first, again, other]) == {first}


async def test_whoever_is_removed_while_it_connects_is_not_there_again(sample: Sample) -> None:
    """Whichever of the two comes first."""
    for number in range(8):
        one = msgspec.structs.replace(sample.host(), name=f"build-{number}")
        kept = msgspec.structs.replace(one, name="kept")
        enrolment, keeps = await enrol(sample, one.name), await enrol(sample, "kept")
        _, _, taken = await asyncio.gather(
            sample.store.hosts.present(one, 1, "agent", enrolment),
            sample.store.upkeep.remove(one.name, force=True),
            sample.store.hosts.present(kept, number, "agent", keeps),
        )
        assert taken
        assert one.name not in {host.name for host in await sample.store.hosts.all()}
        assert not await sample.store.hosts.present(one, 2, "agent", enrolment)
        assert one.name not in {host.name for host in await sample.store.hosts.all()}


async def test_a_host_that_enrols_anew_ends_what_it_had(sample: Sample) -> None:
    first = await enrol(sample)
    made = token()
    assert await sample.store.enrolments.invite("build-1", made, sample.clock() + HOUR) is True
    assert await sample.store.enrolments.invite("build-3", token(), sample.clock() + HOUR) is False
    second = new_id()
    await sample.store.enrolments.enrol("build-1", made, second)
    standing = await sample.store.enrolments.standing(first)
    assert standing is not None
    assert standing.ended == "replaced"
    assert await sample.store.enrolments.ended([first, second]) == {first}


async def test_what_is_long_over_is_forgotten_and_what_stands_is_not(sample: Sample) -> None:
    first = await enrol(sample)
    second = await enrol(sample)
    used = await invite(sample, "build-2")
    await sample.store.enrolments.enrol("build-2", used, new_id())
    sample.clock.now += timedelta(days=91)
    await invite(sample, "build-3")
    with pytest.raises(InvitationUnknown):
        await sample.store.enrolments.enrol("build-2", used, new_id())
    assert await sample.store.enrolments.standing(first) is None
    assert await sample.store.enrolments.standing(second) is not None
    async with sample.store._database.read() as connection:
        assert (await connection.execute(sa.select(sa.func.count()).select_from(enrolments))).scalar_one() == 2


async def test_names_of_tokens_are_unique_until_they_expire_or_are_revoked(sample: Sample) -> None:
    kept, made = sample.store.admin_tokens, token()
    await kept.keep("laptop", made, sample.clock() + HOUR)
    found = await kept.find(made)
    assert found is not None
    assert found.name == "laptop"
    with pytest.raises(TokenNameTaken, match="hostler token revoke laptop"):
        await kept.keep("laptop", token(), sample.clock() + HOUR)
    sample.clock.now += HOUR
    newer = token()
    await kept.keep("laptop", newer, sample.clock() + HOUR)
    assert await kept.find(made) is None
    assert [one.name for one in await kept.all()] == ["laptop"]
    await kept.revoke("laptop")
    assert await kept.find(newer) is None
    with pytest.raises(NoSuchToken):
        await kept.revoke("laptop")


async def test_all_coordinators_have_one_authority_and_its_key_is_sealed(sample: Sample) -> None:
    first, *others = await asyncio.gather(*(open_authority(sample.store) for _ in range(4)))
    assert {one.pin for one in others} == {first.pin}
    async with sample.store._database.read() as connection:
        (row,) = list(await connection.execute(sa.select(authority)))
    certificate, key = await sample.store.authority.load_or_keep(lambda: ("", b""))
    assert certificate.encode() == first.pem
    assert key not in row.key
    assert b"PRIVATE" not in row.key
