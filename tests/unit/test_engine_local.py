"""The executor for our own hosts: what is sent, and what is sent again."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.engine.local import LocalExecutor
from coordinator.fleet.links import Link, Links
from coordinator.runner_api.scripts import urls
from coordinator.tokens import InstanceTokens
from tests.samples.store import Sample, open_sample


@pytest.fixture
async def sample(tmp_path: Path) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path) as opened:
        yield opened


def executor(sample: Sample) -> tuple[LocalExecutor, Link]:
    links = Links()
    link = links.open("host-1", links.next_number(), "run", sample.clock())
    tokens = InstanceTokens(b"k" * 32, sample.clock)
    return LocalExecutor(sample.store, links, tokens, urls("http://coordinator"), sample.clock), link


async def test_a_create_that_failed_before_it_was_sent_is_sent_at_the_next_try(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, link = executor(sample)
    instance = await sample.instance()

    async def failing(entity_id: str) -> None:
        raise OSError(f"the database is busy with {entity_id}")

    with monkeypatch.context() as broken:
        broken.setattr(sample.store.catalog, "forge_access", failing)
        with pytest.raises(OSError, match="busy"):
            await local.create(instance, sample.pool)
    await local.create(instance, sample.pool)
    message, _ = await link.next()
    assert message.create_instance.instance_id == instance.id


async def test_a_command_is_sent_once_on_a_stream_until_it_is_to_be_sent_again(sample: Sample) -> None:
    local, link = executor(sample)
    instance = await sample.instance()
    for _ in range(3):
        await local.create(instance, sample.pool)
    assert len(link._outgoing) == 1
    local.resend(instance.id)
    await local.create(instance, sample.pool)
    assert len(link._outgoing) == 2
