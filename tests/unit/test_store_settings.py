"""What people set of the controller: kept, audited, and heard of by every coordinator on the database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.runner_api.scripts import Urls
from coordinator.store.settings import ControllerSettings
from tests.samples.store import Sample, open_bare, open_sample


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


async def test_nothing_is_set_at_first_and_the_same_twice_is_nothing(sample: Sample) -> None:
    settings = sample.store.settings
    assert await settings.get() == ControllerSettings()
    for _ in range(2):
        await settings.change({"metadata_url": "https://m.example"})
        assert await settings.get() == ControllerSettings(metadata_url="https://m.example")
    (entry,) = [entry for entry in await sample.store.audit.page() if entry.target == "controller"]
    assert (entry.before, entry.after) == ('{"metadata_url":""}', '{"metadata_url":"https://m.example"}')


async def test_another_coordinator_knows_when_it_has_heard(sample: Sample, tmp_path: Path, database_url: str) -> None:
    async with open_bare(tmp_path, database_url, kind=1) as other:
        assert await other.store.settings.get() == ControllerSettings()
        await sample.store.settings.change({"callback_url": "https://c.example"})
        other.store.catalog.forget()  # what it does when it is told that what is declared was changed
        assert await other.store.settings.get() == ControllerSettings(callback_url="https://c.example")


def test_what_is_not_set_is_as_configured() -> None:
    configured = Urls("https://configured/metadata", "https://configured/callbacks")
    assert configured.but(ControllerSettings()) == configured
    assert configured.but(ControllerSettings("https://m")) == Urls("https://m", "https://configured/callbacks")
