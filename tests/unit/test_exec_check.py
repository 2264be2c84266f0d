"""Trying a provider before it makes anything: executables that describe themselves, that do not, and that lie."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from providers.exec import ExecSettings
from providers.exec.check import Finding, PoolSpecs, Verdict, check

PROVIDERS = Path(__file__).parents[1] / "fixtures" / "providers"
BOTH = ["v0.1.0", "v0.1.1"]
STRICT = {
    "type": "object",
    "properties": {"disk_gib": {"type": "integer"}, "zone": {"type": "string"}},
    "additionalProperties": False,
}
CONFIG = {"type": "object", "properties": {"password": {"type": "integer"}}, "required": ["versions"]}

Make = Callable[..., ExecSettings]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def making(executable: str = "describes-itself", config: str | None = None, **answers: Any) -> ExecSettings:
        values = {"versions": BOTH, "config_schema": json.dumps(CONFIG), "extra_specs_schema": json.dumps(STRICT)}
        path = tmp_path / "config.toml"
        lines = [f"{key} = {json.dumps(value)}" for key, value in (values | answers).items()]
        path.write_text("\n".join(lines) if config is None else config)
        return ExecSettings(name="cloud", executable=str(PROVIDERS / executable), config_file=str(path))

    return making


async def findings(settings: ExecSettings, *extra_specs: Mapping[str, Any]) -> dict[str, Finding]:
    pools = [PoolSpecs(f"id-{n}", f"p{n}", specs) for n, specs in enumerate(extra_specs)]
    return {one.subject: one for one in await check(settings, "controller", pools)}


async def test_one_that_describes_itself_is_found_well(make: Make) -> None:
    found = await findings(make(), {"disk_gib": 20})
    assert {one.verdict for one in found.values()} == {Verdict.OK}
    assert found["version"].detail == "v1.2.3"
    assert list(found) == [
        "version",
        "interface version",
        "config_file",
        "extra_specs of pool p0",
        "opinion of pool p0",
        "machines of pool p0",
    ]


async def test_extra_specs_that_do_not_fit_are_told_by_key(make: Make) -> None:
    found = await findings(make(), {"dsik_gib": 20}, {"disk_gib": "hunter2"})
    unknown, wrong = found["extra_specs of pool p0"], found["extra_specs of pool p1"]
    assert unknown.verdict is wrong.verdict is Verdict.PROBLEM
    assert "knows no dsik_gib" in unknown.detail
    assert wrong.detail == 'disk_gib: type must be "integer"'


async def test_a_configuration_that_does_not_fit_is_told_without_its_values(make: Make) -> None:
    found = (await findings(make(password="hunter2")))["config_file"]
    assert found.verdict is Verdict.PROBLEM
    assert "password" in found.detail
    assert "hunter2" not in found.detail


async def test_an_older_one_that_describes_nothing_is_no_problem_as_long_as_it_lists(make: Make) -> None:
    found = await findings(make(versions=["v0.1.0"]), {"anything": 1})
    assert found["version"].verdict is found["machines of pool p0"].verdict is Verdict.OK
    others = {one.verdict for name, one in found.items() if name not in ("version", "machines of pool p0")}
    assert others == {Verdict.UNKNOWN}


async def test_one_that_cannot_list_has_a_problem(make: Make) -> None:
    found = await findings(make(refuses=["ListInstances"]))
    assert found["machines"].verdict is Verdict.PROBLEM
    assert "does not implement ListInstances" in found["machines"].detail


async def test_a_version_that_it_does_not_know_is_a_problem(make: Make) -> None:
    found = await findings(make(versions=["v0.1.1"]))
    assert found["interface version"].verdict is Verdict.PROBLEM
    assert "set interface_version" in found["interface version"].detail


async def test_a_refusal_of_a_pool_alone_proves_nothing(make: Make) -> None:
    found = await findings(make(extra_specs_schema="{}"), {"bad": 1})
    assert found["opinion of pool p0"].verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("half {", "not one"),
        ("[1]", "not one"),
        ('{"type": "colour"}', "cannot be used"),
        ('{"$ref": "http://127.0.0.1:9/schema.json"}', "cannot be used"),  # is not fetched
    ],
)
async def test_a_schema_that_is_none_tells_nothing(make: Make, schema: str, reason: str) -> None:
    found = (await findings(make(extra_specs_schema=schema), {"disk_gib": 1}))["extra_specs of pool p0"]
    assert found.verdict is Verdict.UNKNOWN
    assert reason in found.detail


@pytest.mark.parametrize("executable", ["garbage", "half-json", "segfaults", "floods-stdout"])
async def test_whatever_an_executable_does_is_a_finding(make: Make, executable: str) -> None:
    found = await findings(make(executable), {"disk_gib": 1})
    assert found["machines of pool p0"].verdict is Verdict.PROBLEM
    assert {one.verdict for name, one in found.items() if "schema" in name} <= {Verdict.UNKNOWN}


async def test_a_configuration_that_is_not_toml_is_only_known_to_be_wrong_by_a_schema(make: Make) -> None:
    found = (await findings(make("prints", config="not = toml = at all")))["config_file"]
    assert found.verdict is Verdict.UNKNOWN
    assert "not TOML" in found.detail
