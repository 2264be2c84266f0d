"""What `hostler provider list` and `check` get from the coordinator, each provider with its own pools."""

from contextlib import suppress
from pathlib import Path

import pytest

from coordinator.admin_providers import ProviderAdmin, ProviderUnknown
from coordinator.domain.circuit import PATIENCE
from coordinator.engine.circuits import Circuits
from providers.exec import ExecProvider, ExecSettings, ProviderTimeout
from tests.samples.store import open_sample

DESCRIBES = Path(__file__).parents[1] / "fixtures" / "providers" / "describes-itself"
POOL = """
[[pool]]
endpoint = "forge"
repository = "Octo/Widgets"
name = "clouds"
labels = ["cloud"]
image = "debian"
flavor = "small"
provider = "cloud"
extra_specs = { dsik_gib = 3 }
"""
CONFIG = """
versions = ["v0.1.1"]
config_schema = '{}'
extra_specs_schema = '{"properties": {"disk_gib": {}}, "additionalProperties": false}'
"""


async def test_a_list_says_who_uses_a_provider_and_whether_it_is_called(tmp_path: Path) -> None:
    config = tmp_path / "cloud.toml"
    config.write_text(CONFIG)
    settings = ExecSettings(name="cloud", executable=str(DESCRIBES), config_file=str(config))
    async with open_sample(tmp_path) as sample:
        await sample.apply(POOL)
        circuits = Circuits(sample.clock, lambda: 0.5)
        clouds = {"cloud": ExecProvider(settings, "controller")}
        admin = ProviderAdmin(sample.store, clouds, circuits, sample.clock)
        (well,) = (await admin.all()).providers
        for _ in range(PATIENCE):
            with suppress(ProviderTimeout), circuits.watched("cloud"):
                raise ProviderTimeout("late")
        (broken,) = (await admin.all()).providers
        sample.clock.move(minutes=6)
        (tried,) = (await admin.all()).providers
    assert (well.name, list(well.pools), well.instances) == ("cloud", ["clouds"], 0)
    assert (well.circuit, well.failures) == ("closed", 0)
    assert not well.HasField("open_until")
    assert (broken.circuit, broken.failures) == ("open", PATIENCE)
    assert "late" in broken.fault
    assert broken.open_until == tried.open_until
    assert tried.circuit == "tried"


async def test_the_pools_of_the_provider_are_checked_and_no_others(tmp_path: Path) -> None:
    config = tmp_path / "cloud.toml"
    config.write_text(CONFIG)
    settings = ExecSettings(
        name="cloud", executable=str(DESCRIBES), config_file=str(config), interface_version="v0.1.1"
    )
    async with open_sample(tmp_path) as sample:
        await sample.apply(POOL)
        circuits = Circuits(sample.clock, lambda: 0.5)
        admin = ProviderAdmin(sample.store, {"cloud": ExecProvider(settings, "controller")}, circuits, sample.clock)
        found = {one.subject: one for one in (await admin.check("cloud")).findings}
        with pytest.raises(ProviderUnknown, match="configured here: cloud"):
            await admin.check("clowd")
    assert {name for name in found if "pool" in name} == {
        "extra_specs of pool clouds",
        "opinion of pool clouds",
        "machines of pool clouds",
    }
    assert found["extra_specs of pool clouds"].verdict == "problem"
    assert found["machines of pool clouds"].verdict == "ok"
