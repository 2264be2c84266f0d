"""The demo's cloud pool: its files, and what is done about machines that a dead demo has left."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.config import CoordinatorConfig
from coordinator.declare import Declaration
from hostler import config
from hostler.cli.document import resolved
from providers.exec import ExecProvider
from tests.demo import farm, stop
from tests.demo.farm import Farm
from tests.demo.places import CLOUD_GUEST, Places
from tests.demo.traces import settings
from tests.samples.qemu_cloud import QemuCloud, path_with_stand_in, spec

FORGE = {
    "base_url": "http://10.217.77.1:1",
    "api_url": "http://10.217.77.1:1/api/v3",
    "tokens": [{"value": "a-token-that-is-long-enough"}],
    "hooks": [{"secret": "a-secret-that-is-long-enough"}],
}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def test_its_files_are_what_the_programs_take(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farm, "free_port", lambda _: 1)  # its network is not up
    places.forge_state.write_text(json.dumps(FORGE))
    one = Farm(places, settings("tcg"), guest=CLOUD_GUEST)
    one._write_configs()
    (provider,) = config.load(places.coordinator_config, CoordinatorConfig).provider
    assert (provider.name, os.access(provider.executable, os.X_OK)) == ("cloud", True)
    (pool,) = config.parse(resolved(places.fleet), Declaration, "fleet.toml").pool
    assert (pool.provider, pool.image) == ("cloud", CLOUD_GUEST.path.stem)
    assert not pool.says_network  # a cloud would be refused that
    told = places.cloud_config.read_text().splitlines()
    assert f'flavor_{pool.flavor} = "1 256"' in told
    assert f'images = "{CLOUD_GUEST.path.parent}"' in told
    assert not places.agent_config.exists()


@pytest.fixture
def cloud(places: Places, monkeypatch: pytest.MonkeyPatch) -> Iterator[QemuCloud]:
    monkeypatch.setenv("PATH", path_with_stand_in())
    one = QemuCloud(places.folder)
    one.config.rename(places.cloud_config)
    one.config = places.cloud_config
    yield one
    one.end_all()


async def test_what_a_dead_demo_has_left_is_removed_and_its_consoles_are_kept(places: Places, cloud: QemuCloud) -> None:
    for number in (1, 2):
        await ExecProvider(cloud.settings(), f"controller-{number}").create(spec(f"runner-{number}"))
    (places.machines / "runner-1" / "console.log").write_text("its last words")

    stop._remove_from_cloud(places)

    assert cloud.traces() == []
    assert (places.folder / "console-runner-1.log").read_text() == "its last words"
