"""What `hostler provider check` gets from the coordinator: the provider's own pools, and a refusal for a wrong name."""

from pathlib import Path

import pytest

from coordinator.admin_providers import ProviderAdmin, ProviderUnknown
from providers.exec import ExecProvider, ExecSettings
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


async def test_the_pools_of_the_provider_are_checked_and_no_others(tmp_path: Path) -> None:
    config = tmp_path / "cloud.toml"
    config.write_text(CONFIG)
    settings = ExecSettings(
        name="cloud", executable=str(DESCRIBES), config_file=str(config), interface_version="v0.1.1"
    )
    async with open_sample(tmp_path) as sample:
        await sample.apply(POOL)
        admin = ProviderAdmin(sample.store, {"cloud": ExecProvider(settings, "controller")})
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
