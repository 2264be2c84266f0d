"""The coordinator's configuration file and the program's `--check`."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from coordinator.config import CoordinatorConfig
from hostler import config
from hostler.errors import ConfigError


@pytest.fixture
def whole(tmp_path: Path) -> str:
    """A file with every key in it, its provider's files in place."""
    executable, settings = tmp_path / "garm-provider-x", tmp_path / "x.toml"
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)
    settings.write_text("")
    return f"""
data_dir = "{tmp_path}/data"
log_level = "debug"
[http]
bind = "127.0.0.1:9997"
public_url = "http://127.0.0.1:9997"
runner_bind = "10.213.0.1:9996"
runner_url = "https://runners.example"
[grpc]
bind = "127.0.0.1:9998"
[database]
url = "sqlite:///{tmp_path}/hostler.db"
[planner]
patrol_seconds = 60
[retention]
days = 90
[secrets]
key_file = "/etc/hostler/sealing.key"
[[provider]]
name = "cloud"
kind = "exec"
executable = "{executable}"
config_file = "{settings}"
interface_version = "v0.1.0"
environment = ["AWS_", "PATH"]
timeout_seconds = 300
"""


def _parse(text: str) -> CoordinatorConfig:
    return config.parse(text, CoordinatorConfig, "/etc/coordinator.toml")


def test_every_key_is_taken(whole: str, tmp_path: Path) -> None:
    parsed = _parse(whole)
    assert parsed.data_dir == f"{tmp_path}/data"
    assert parsed.database_url == f"sqlite:///{tmp_path}/hostler.db"
    assert (parsed.http.bind, parsed.grpc.bind) == ("127.0.0.1:9997", "127.0.0.1:9998")
    assert (parsed.planner.patrol_seconds, parsed.retention.days) == (60, 90)
    assert parsed.secrets.key_file == "/etc/hostler/sealing.key"
    assert [(one.name, one.environment) for one in parsed.provider] == [("cloud", ("AWS_", "PATH"))]


def test_everything_has_a_default() -> None:
    parsed = _parse("")
    assert parsed.database_url == "sqlite:////var/lib/hostler/hostler.db"
    assert parsed.http.public_url == "http://127.0.0.1:9997"
    assert parsed.http.machines_call == "http://127.0.0.1:9996"


def test_machines_are_told_the_listener_that_is_theirs(whole: str) -> None:
    assert _parse(whole).http.machines_call == "https://runners.example"
    assert _parse('[http]\nrunner_bind = "10.213.0.1:9996"').http.machines_call == "http://10.213.0.1:9996"


@pytest.mark.parametrize("bind", ["[::1]:9998", "localhost:9998", "127.8.8.8:0"])
def test_grpc_may_be_on_any_loopback_address(bind: str) -> None:
    assert _parse(f'[grpc]\nbind = "{bind}"').grpc.bind == bind


WRONG = [
    ('log_level = "debug"', 'log_level = "loud"', "", "log_level: 'loud' is none of debug, info, warning, error"),
    ('log_level = "debug"', "log_level = 3", "log_level", "Expected `str`, got `int`"),
    ('log_level = "debug"', 'loglevel = "info"', "loglevel", "allowed here: data_dir, log_level, http, grpc, database"),
    ("[http]", "[https]", "https", "unknown; allowed here: data_dir"),
    ("[http]", "[[http]]", "http", "Expected `object`, got `array`"),
    ('"127.0.0.1:9997"', '"9997"', "http", "bind: '9997' is not HOST:PORT, for example 127.0.0.1:9997"),
    ('"127.0.0.1:9997"', '"127.0.0.1:99999"', "http", "bind: '127.0.0.1:99999' is not HOST:PORT"),
    ('"127.0.0.1:9997"', '"127.0.0.1:\u0669"', "http", "is not HOST:PORT"),
    ('"127.0.0.1:9997"', '":9997"', "http", "bind: ':9997' is not HOST:PORT"),
    ('"127.0.0.1:9997"', "9997", "http.bind", "Expected `str`, got `int`"),
    ('"http://127.0.0.1:9997"', '"127.0.0.1:9997"', "http", "public_url: '127.0.0.1:9997' is not an http or https"),
    ('"http://127.0.0.1:9997"', '"ftp://host"', "http", "public_url: 'ftp://host' is not an http or https address"),
    ('"http://127.0.0.1:9997"', '"http://host:port"', "http", "public_url: not an http or https address"),
    ('"http://127.0.0.1:9997"', '"http://[::1"', "http", "public_url: not an http or https address"),
    ('"http://127.0.0.1:9997"', '"http://u:hush@host"', "http", "public_url: must hold no user and no password"),
    ('"http://127.0.0.1:9997"', '"http://host/?x"', "http", "public_url: 'http://host/?x' is not"),
    ("public_url", "public", "http.public", "allowed here: bind, public_url, runner_bind"),
    ('"10.213.0.1:9996"', '"10.213.0.1"', "http", "runner_bind: '10.213.0.1' is not HOST:PORT"),
    ('"10.213.0.1:9996"', '"127.0.0.1:9997"', "http", "runner_bind: '127.0.0.1:9997' is that of bind"),
    ('"https://runners.example"', '"runners.example"', "http", "runner_url: 'runners.example' is not an http or https"),
    (
        'runner_bind = "10.213.0.1:9996"\nrunner_url = "https://runners.example"',
        'runner_bind = "0.0.0.0:9996"',
        "http",
        "runner_url: is needed, since '0.0.0.0:9996' of runner_bind is no address to call",
    ),
    ('"127.0.0.1:9998"', '"0.0.0.0:9998"', "grpc", "without mutual TLS gRPC is served on loopback only"),
    ('"127.0.0.1:9998"', '"build-1:9998"', "grpc", "is not on loopback"),
    ('"127.0.0.1:9998"', '"127.0.0.1"', "grpc", "bind: '127.0.0.1' is not HOST:PORT"),
    ("[database]\nurl = ", "[database]\nuri = ", "database.uri", "allowed here: url"),
    ("sqlite:///", "mysql://u:hush@h", "database", "allowed: sqlite:////absolute/path.db or postgresql://"),
    ("sqlite:///", "postgresql:/u:hush@h", "database", "url: this is not a database URL"),
    ("sqlite:////", "sqlite:///", "database", "allowed: sqlite:////absolute/path.db"),
    ("= 60", "= 0", "planner", "patrol_seconds: must be 1 to 3600"),
    ("= 60", "= 3601", "planner", "patrol_seconds: must be 1 to 3600"),
    ("= 90", "= 0", "retention", "days: must be 1 to 3650"),
    ("= 90", "= 3651", "retention", "days: must be 1 to 3650"),
    ("days = 90", "weeks = 4", "retention.weeks", "allowed here: days"),
    ('"/etc/hostler/sealing.key"', '"sealing.key"', "secrets", "key_file: 'sealing.key' must be an absolute path"),
    ('"cloud"', '""', "provider[0]", "name: must not be empty"),
    ('"cloud"', '"libvirt"', "", "the name 'libvirt' is that of a driver of agents"),
    ('"exec"', '"terraform"', "provider[0].kind", "Invalid enum value 'terraform'; allowed: exec"),
    ("/garm-provider-x", "/garm-provider-y", "provider[0]", "does not exist"),
    ("/x.toml", "", "provider[0]", "config_file: "),
    ('executable = "', 'executable = "./', "provider[0]", "is not an absolute path"),
    ('"v0.1.0"', '"v9"', "provider[0].interface_version", "allowed: v0.1.0, v0.1.1"),
    ('["AWS_", "PATH"]', '["GARM_"]', "provider[0]", "environment: 'GARM_'"),
    ('["AWS_", "PATH"]', '[""]', "provider[0]", "an empty prefix would pass every variable on"),
    ('["AWS_", "PATH"]', '"PATH"', "provider[0].environment", "Expected `array`, got `str`"),
    ("= 300", "= 0", "provider[0]", "timeout_seconds: 0 is not above 0"),
    ("= 300", '= "5m"', "provider[0].timeout_seconds", "Expected `float`, got `str`"),
    ("timeout_seconds", "timeout", "provider[0].timeout", "unknown; allowed here: "),
    ("[http]", "[http", "", "not valid TOML"),
]


@pytest.mark.parametrize(("old", "new", "key", "reason"), WRONG, ids=[f"{new[:30]!r}" for _, new, _, _ in WRONG])
def test_a_wrong_value_is_named_with_file_and_key(whole: str, old: str, new: str, key: str, reason: str) -> None:
    assert old in whole
    with pytest.raises(ConfigError) as caught:
        _parse(whole.replace(old, new, 1))
    said = str(caught.value)
    assert said.startswith("/etc/coordinator.toml: ")
    assert not key or f"key '{key}'" in said
    assert reason in said
    assert "hush" not in said


def test_every_key_has_been_given_a_wrong_value(whole: str) -> None:
    keys = {line.split(" = ")[0] for line in whole.splitlines() if " = " in line}
    tried = " ".join(f"{old} {new} {key} {reason}" for old, new, key, reason in WRONG)
    relative = {"data_dir"}  # has its own test below
    assert [key for key in keys - relative if key not in tried] == []


def test_a_data_dir_is_absolute() -> None:
    with pytest.raises(ConfigError, match="data_dir: 'here' must be an absolute path"):
        _parse('data_dir = "here"')


def test_two_providers_of_one_name_are_refused(whole: str) -> None:
    twice = whole + whole[whole.index("[[provider]]") :]
    with pytest.raises(ConfigError, match="the name 'cloud' is given twice"):
        _parse(twice)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b'data_dir = "\xff"')
    for path, reason in (
        (tmp_path / "missing", "no such file"),
        (tmp_path, "cannot be read"),
        (tmp_path / "latin", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=reason) as caught:
            config.load(path, CoordinatorConfig)
        assert str(path) in str(caught.value)


def test_the_configuration_is_plain_data(whole: str) -> None:
    assert msgspec.to_builtins(_parse(whole))["log_level"] == tomllib.loads(whole)["log_level"]


# --- the program ---


def _coordinator(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "coordinator.main", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )


def test_check_says_good_and_makes_nothing(whole: str, tmp_path: Path) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text(whole)
    ended = _coordinator("--config", str(file), "--check")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{file}: good\n", "")
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "hostler.db").exists()


@pytest.mark.parametrize("check", [["--check"], []])
def test_a_file_at_fault_ends_with_2_and_one_line(tmp_path: Path, check: list[str]) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text('[http]\nbind = "nowhere"')
    ended = _coordinator("--config", str(file), *check)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"hostler-coordinator: {file}: key 'http': bind: 'nowhere' is not HOST:PORT, for example 127.0.0.1:9997\n"
    )


@pytest.mark.parametrize("wrong", ["key", "database", "folder"])
def test_what_stops_the_start_is_said_in_one_line(tmp_path: Path, wrong: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    file = tmp_path / "coordinator.toml"
    url = f"sqlite:///{tmp_path}/nowhere/hostler.db" if wrong == "folder" else f"sqlite:///{data}/hostler.db"
    file.write_text(f'data_dir = "{data}"\n[database]\nurl = "{url}"')
    if wrong == "key":
        (data / "secrets.key").write_bytes(b"x" * 32)
        (data / "secrets.key").chmod(0o644)
    if wrong == "database":
        (data / "hostler.db").write_bytes(b"junk" * 1000)
    ended = _coordinator("--config", str(file))
    assert ended.returncode == 1
    assert ended.stderr.startswith("hostler-coordinator: ")
    assert len(ended.stderr.splitlines()) == 1
    assert "(" in ended.stderr  # the hint


def test_an_unknown_argument_ends_with_2() -> None:
    assert _coordinator("--chek").returncode == 2
