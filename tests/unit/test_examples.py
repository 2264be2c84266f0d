"""The example files that the README tells people to copy are what the programs take."""

import re
import tomllib
from pathlib import Path

import pytest

from agent import config as agent_config
from coordinator.config import CoordinatorConfig
from coordinator.declare import Declaration
from hostler import config
from hostler.cli.document import resolved
from providers import ec2

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"


def test_the_coordinators_example_is_valid() -> None:
    assert config.load(EXAMPLES / "coordinator.toml", CoordinatorConfig).http.machines_call == "http://10.213.0.1:9996"


def test_the_coordinators_example_of_a_cloud_provider_is_valid(tmp_path: Path) -> None:
    text = (EXAMPLES / "coordinator.toml").read_text()
    begin = text.index("# [[provider]]")
    table = "\n".join(line.removeprefix("# ") for line in text[begin:].splitlines())
    for path in ("/opt/providers/garm-provider-x", "/etc/hostler/x.toml"):
        stand_in = tmp_path / Path(path).name
        stand_in.touch(mode=0o755)
        table = table.replace(path, str(stand_in))
    loaded = config.parse(text[:begin] + table, CoordinatorConfig, "coordinator.toml")
    assert [provider.name for provider in loaded.provider] == ["cloud"]


def test_the_example_for_ec2_is_what_its_provider_takes() -> None:
    text = (EXAMPLES / "provider-ec2.toml").read_text()
    told = tomllib.loads(text)
    ec2.checked(told, ec2.CONFIG_SCHEMA, "configuration")
    commented = {line.split()[1] for line in text.splitlines() if re.match(r"# \w+ = ", line)}
    assert {*told, *commented, "endpoint_url"} == {*ec2.CONFIG_SCHEMA["properties"]}


def test_the_example_for_qemu_has_all_that_its_provider_asks_for() -> None:
    told = tomllib.loads((EXAMPLES / "provider-qemu.toml").read_text())
    asked = set(re.findall(r"\(setting (\w+)\)", (ROOT / "providers" / "qemu.bash").read_text()))
    assert asked == set(told) - {"flavor_medium"} == {"directory", "images", "accelerator"}
    assert re.fullmatch(r"\d+ \d+", told["flavor_medium"])


def test_the_agents_example_is_valid() -> None:
    assert agent_config.load(EXAMPLES / "agent.toml").host.name == "build-1"
    assert agent_config.load(EXAMPLES / "agent-lxd.toml").host.name == "build-2"


def test_the_fleets_example_is_valid_once_its_secrets_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (EXAMPLES / "fleet.toml").read_text()
    for name in ("github-token", "webhook-secret"):
        (tmp_path / name).write_text("a-secret-that-is-long-enough\n")
        text = text.replace(f"/etc/hostler/{name}", str(tmp_path / name))
    (tmp_path / "fleet.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    declared = config.parse(resolved(tmp_path / "fleet.toml"), Declaration, "fleet.toml")
    assert [pool.provider for pool in declared.pool] == ["libvirt"]
