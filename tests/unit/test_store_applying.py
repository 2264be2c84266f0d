"""Documents applied to a database: dry runs, exports, and removing what is not declared."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.domain.job import JobStatus
from coordinator.exporting import exported
from coordinator.store.catalog import NothingDeclared
from coordinator.store.edits import InUse
from hostler.errors import HostlerError
from tests.samples.store import DOCUMENT, FORGE_TOKEN, TWIN, WEBHOOK_SECRET, Sample, open_sample

IMAGE = f"""
[[image]]
name = "debian"
url = "https://images.example/debian.qcow2.xz"
sha256 = "{"AB" * 32}"
"""
FLAVOR = '[[flavor]]\nname = "large"\nvcpus = 8\nmemory_mib = 9000\ndisk_gib = 90\ndevices = { gpu = 1 }\n'
EVERYTHING = DOCUMENT + 'extra_specs = { zone = "b" }\n' + IMAGE + FLAVOR
NO_POOL = DOCUMENT.partition("[[pool]]")[0]


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


async def _exported(sample: Sample) -> str:
    return exported(await sample.store.catalog.declared())


async def test_an_export_changes_nothing_and_holds_no_secret(sample: Sample) -> None:
    await sample.apply(EVERYTHING)
    document = await _exported(sample)
    assert FORGE_TOKEN not in document
    assert WEBHOOK_SECRET not in document
    assert await sample.apply(document) == []
    assert (await sample.plan(document, prune=True)).lines == []
    assert await _exported(sample) == document
    assert (await sample.store.catalog.forge_access(sample.entity_id)).token == FORGE_TOKEN


async def test_an_export_that_is_changed_changes_that(sample: Sample) -> None:
    document = (await _exported(sample)).replace("max_runners = 3", "max_runners = 4")
    assert await sample.apply(document) == ["pool linux: updated (max_runners)"]
    assert await sample.apply(DOCUMENT) == ["pool linux: updated (max_runners)"]


async def test_a_dry_run_says_what_is_then_done_and_does_nothing(sample: Sample) -> None:
    changed = EVERYTHING.replace("max_runners = 3", "max_runners = 4").replace(FORGE_TOKEN, "another-token")
    before = await sample.store.catalog.declared()
    tried = await sample.plan(changed, dry_run=True)
    assert await sample.store.catalog.declared() == before
    assert await sample.plan(changed) == tried
    assert tried.lines == [
        "credentials token: updated (token)",
        "flavor large: created",
        "image debian/amd64: created",
        "pool linux: updated (max_runners, extra_specs)",
    ]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ('[[endpoint]]\nname = "twin"\nbase_url = "https://forge.example"', "is that of endpoint 'forge'"),
        (TWIN.replace('credentials = "token"', 'credentials = "lost"'), "there is no credentials 'lost'"),
        ('[[credentials]]\nname = "new"\nendpoint = "forge"', "the token of credentials 'new' is new, and not said"),
        (
            TWIN.replace('webhook_secret = "another secret of them"', ""),
            "the webhook_secret of repository 'evil/twin' is new, and not said",
        ),
    ],
)
async def test_a_dry_run_is_refused_as_the_run_would_be(sample: Sample, document: str, reason: str) -> None:
    for dry_run in (True, False):
        with pytest.raises(HostlerError, match=reason):
            await sample.plan(document, dry_run=dry_run)


async def test_what_is_not_declared_stays_until_it_is_told_to_go(sample: Sample) -> None:
    await sample.apply(DOCUMENT + IMAGE.replace("debian", "spare") + FLAVOR + TWIN)
    assert await sample.apply(DOCUMENT) == []
    expected = ["repository evil/twin: removed", "image spare/amd64: removed", "flavor large: removed"]
    assert (await sample.plan(DOCUMENT, prune=True, dry_run=True)).lines == expected
    assert (await sample.plan(DOCUMENT, prune=True)).lines == expected
    assert (await sample.plan(DOCUMENT, prune=True)).lines == []
    assert [entity.full_name for entity in await sample.store.catalog.entities()] == ["Octo/Widgets"]
    targets = [entry.target for entry in await sample.store.audit.page() if entry.action == "removed"]
    assert sorted(targets) == ["flavor large", "image spare/amd64", "repository evil/twin"]


async def test_a_pool_with_machines_is_not_removed_and_nothing_else_is(sample: Sample) -> None:
    instance = await sample.instance()
    before = await sample.store.catalog.declared()
    for dry_run in (True, False):
        with pytest.raises(InUse, match=f"the pool 'linux' has runners: {instance.name} .disable the pool") as caught:
            await sample.plan(NO_POOL + TWIN, prune=True, dry_run=dry_run)
        assert "enabled = false" in str(caught.value)
    assert await sample.store.catalog.declared() == before


async def test_when_pruning_is_refused_nothing_has_lost_its_history(sample: Sample) -> None:
    await sample.apply(TWIN)
    await sample.instance()
    twin = await sample.entity_of("evil")
    await sample.store.ledger.record(sample.event(JobStatus.COMPLETED, 77, entity_id=twin))
    before = len(await sample.store.history.jobs(completed=True))
    with pytest.raises(InUse, match="the pool 'linux' has runners"):
        await sample.plan(NO_POOL, prune=True)
    assert len(await sample.store.history.jobs(completed=True)) == before
    await sample.plan(DOCUMENT, prune=True)
    assert len(await sample.store.history.jobs(completed=True)) == before - 1


async def test_what_stays_in_use_is_not_removed(sample: Sample) -> None:
    await sample.apply(EVERYTHING)
    with pytest.raises(InUse, match="the image 'debian/amd64' is named by pools that stay: linux"):
        await sample.plan(DOCUMENT.replace("max_runners = 3", 'extra_specs = { zone = "b" }'), prune=True)
    with pytest.raises(InUse, match="the flavor 'small' is named by pools that stay: linux"):
        await sample.plan(EVERYTHING.replace('name = "small"', 'name = "tiny"'), prune=True)


async def test_pruning_by_an_empty_document_is_refused(sample: Sample) -> None:
    with pytest.raises(NothingDeclared, match="declares nothing"):
        await sample.plan("", prune=True)
    assert await sample.store.catalog.pools() != []


async def test_a_catalogue_is_pruned_down_to_one_object(sample: Sample) -> None:
    await sample.apply(EVERYTHING)
    made = await sample.plan('[[endpoint]]\nname = "forge"\nbase_url = "https://forge.example"', prune=True)
    assert [line for line in made.lines if "removed" in line] == [
        "pool linux: removed",
        "repository Octo/Widgets: removed",
        "image debian/amd64: removed",
        "flavor large: removed",
        "flavor small: removed",
        "credentials token: removed",
    ]
    assert await sample.store.catalog.pools() == []
