"""The `[[provider]]` table: each bad value is refused with the key and the way out."""

from pathlib import Path

import pytest

from hostler.config import parse
from hostler.errors import ConfigError
from providers.exec import ExecSettings

PROVIDERS = Path(__file__).parents[1] / "fixtures" / "providers"


def table(tmp_path: Path, **changes: str) -> str:
    (tmp_path / "config").touch()
    keys = {
        "name": '"cloud"',
        "kind": '"exec"',
        "executable": f'"{PROVIDERS / "file-cloud"}"',
        "config_file": f'"{tmp_path / "config"}"',
    }
    return "\n".join(f"{key} = {value}" for key, value in (keys | changes).items())


def test_the_least_table_gets_the_defaults(tmp_path: Path) -> None:
    settings = parse(table(tmp_path), ExecSettings, "here")
    assert (settings.interface_version, settings.timeout_seconds, settings.max_concurrent) == ("v0.1.0", 300, 16)
    assert settings.environment == ()


def test_a_full_table_is_taken_as_it_is(tmp_path: Path) -> None:
    text = table(tmp_path, interface_version='"v0.1.1"', environment='["AWS_", "PATH"]', timeout_seconds="2.5")
    settings = parse(text, ExecSettings, "here")
    assert settings.interface_version == "v0.1.1"
    assert settings.environment == ("AWS_", "PATH")
    assert settings.timeout_seconds == 2.5


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("name", '""', "must not be empty"),
        ("kind", '"lambda"', "Invalid enum value 'lambda'"),
        ("executable", '"bin/provider"', "'bin/provider' is not an absolute path"),
        ("executable", '"/nowhere/provider"', "'/nowhere/provider' does not exist"),
        ("executable", '"/tmp"', "'/tmp' is not a file"),
        ("executable", '"/etc/passwd"', "is not executable; try chmod +x"),
        ("config_file", '"x.toml"', "config_file: 'x.toml' is not an absolute path"),
        ("config_file", '"/nowhere/x.toml"', "config_file: '/nowhere/x.toml' does not exist"),
        ("interface_version", '"0.1.0"', "Invalid enum value '0.1.0'"),
        ("environment", '[""]', "an empty prefix would pass every variable on"),
        ("environment", '["AWS_", "GARM_TOKEN"]', "'GARM_TOKEN': names that begin with GARM"),
        ("environment", '["AWS_REGION=eu"]', "begins no variable's name"),
        ("timeout_seconds", "0", "timeout_seconds: 0 is not above 0"),
        ("timeout_seconds", "inf", "timeout_seconds: inf is not above 0 and at most 86400"),
        ("timeout_seconds", "nan", "timeout_seconds: nan is not above 0"),
        ("max_concurrent", "0", "max_concurrent: 0 is not above 0"),
        ("exec_timeout", "3", "key 'exec_timeout': unknown; allowed here: name, executable"),
    ],
)
def test_a_bad_value_is_refused_with_its_reason(tmp_path: Path, key: str, value: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(table(tmp_path, **{key: value}), ExecSettings, "coordinator.toml")
    assert reason in str(refused.value)
    assert "coordinator.toml" in str(refused.value)
