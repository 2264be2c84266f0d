"""The coordinator's configuration file and the program's `--check`."""

import os
import socket
import subprocess
import sys
import tomllib
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coordinator.checks import check
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
agents_bind = "0.0.0.0:9995"
clients_bind = "0.0.0.0:9994"
public_names = ["build.example", "10.0.0.5"]
certificate_hours = 24
[database]
url = "sqlite:///{tmp_path}/hostler.db"
[planner]
starvation_minutes = 20
idle_grace_seconds = 180
creates_per_host = 8
patrol_seconds = 60
host_grace_seconds = 25
host_lease_seconds = 240
poll_seconds = 600
[retention]
days = 90
[secrets]
key_file = "{tmp_path}/sealing.key"
[metrics]
open = true
one_by_one = false
[[provider]]
name = "cloud"
kind = "exec"
executable = "{executable}"
config_file = "{settings}"
interface_version = "v0.1.0"
environment = ["AWS_", "PATH"]
timeout_seconds = 300
max_concurrent = 5
appear_seconds = 45
"""


def _parse(text: str) -> CoordinatorConfig:
    return config.parse(text, CoordinatorConfig, "/etc/coordinator.toml")


def test_every_key_is_taken(whole: str, tmp_path: Path) -> None:
    parsed = _parse(whole)
    assert parsed.data_dir == f"{tmp_path}/data"
    assert parsed.database_url == f"sqlite:///{tmp_path}/hostler.db"
    assert (parsed.http.bind, parsed.grpc.bind) == ("127.0.0.1:9997", "127.0.0.1:9998")
    assert (parsed.planner.patrol_seconds, parsed.planner.poll_seconds, parsed.retention.days) == (60, 600, 90)
    policy = parsed.planner.policy
    assert (policy.starvation_bound, policy.idle_grace) == (timedelta(minutes=20), timedelta(minutes=3))
    assert policy.creates_per_host == 8
    assert parsed.secrets.key_file == f"{tmp_path}/sealing.key"
    assert [(one.name, one.environment, one.max_concurrent) for one in parsed.provider] == [
        ("cloud", ("AWS_", "PATH"), 5)
    ]
    assert (parsed.grpc.agents_address, parsed.grpc.clients_address) == ("build.example:9995", "build.example:9994")
    assert parsed.grpc.certificate_life == timedelta(days=1)


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
    ('data_dir = "/', 'data_dir = "./', "", "data' must be an absolute path"),
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
    ('"127.0.0.1:9998"', '"0.0.0.0:9998"', "grpc", "plain gRPC is served there alone"),
    ('"127.0.0.1:9998"', '"build-1:9998"', "grpc", "is not on loopback"),
    ('clients_bind = "0.0.0.0:9994"\n', "", "grpc", "agents_bind, clients_bind: hosts enrol at the one"),
    ('"0.0.0.0:9995"', '"0.0.0.0"', "grpc", "agents_bind: '0.0.0.0' is not HOST:PORT"),
    ('"0.0.0.0:9994"', '"0.0.0.0"', "grpc", "clients_bind: '0.0.0.0' is not HOST:PORT"),
    ('"0.0.0.0:9994"', '"0.0.0.0:9995"', "grpc", "clients_bind: '0.0.0.0:9995' is that of agents_bind"),
    ('["build.example", "10.0.0.5"]', "[]", "grpc", "public_names: name at least one host name or address"),
    ('"build.example"', '"build example"', "grpc", "public_names: 'build example' is not a host name"),
    ("certificate_hours = 24", "certificate_hours = 169", "grpc", "certificate_hours: must be 0.001 to 168"),
    ('"127.0.0.1:9998"', '"127.0.0.1"', "grpc", "bind: '127.0.0.1' is not HOST:PORT"),
    ("[database]\nurl = ", "[database]\nuri = ", "database.uri", "allowed here: url"),
    ("sqlite:///", "mysql://u:hush@h", "database", "allowed: sqlite:////absolute/path.db or postgresql://"),
    ("sqlite:///", "postgresql:/u:hush@h", "database", "url: this is not a database URL"),
    ("sqlite:////", "sqlite:///", "database", "allowed: sqlite:////absolute/path.db"),
    ("= 20", "= 0", "planner", "starvation_minutes: must be 1 to 10080"),
    ("= 20", "= 10081", "planner", "starvation_minutes: must be 1 to 10080"),
    ("= 180", "= -1", "planner", "idle_grace_seconds: must be 0 to 86400"),
    ("= 180", "= 86401", "planner", "idle_grace_seconds: must be 0 to 86400"),
    ("= 8\n", "= 0\n", "planner", "creates_per_host: must be 1 to 1000"),
    ("= 8\n", "= 1001\n", "planner", "creates_per_host: must be 1 to 1000"),
    ("= 8\n", "= 1.5\n", "planner.creates_per_host", "Expected `int`, got `float`"),
    ("= 25\n", "= 3601\n", "planner", "host_grace_seconds: must be 0 to 3600"),
    ("= 25\n", "= 241\n", "planner", "host_lease_seconds: must be 60 to 86400, and not below host_grace_seconds"),
    ("= 240\n", "= 59\n", "planner", "host_lease_seconds: must be 60 to 86400"),
    ("= 60\n", "= 0\n", "planner", "patrol_seconds: must be 1 to 3600"),
    ("= 60\n", "= 3601\n", "planner", "patrol_seconds: must be 1 to 3600"),
    ("= 600\n", "= 0\n", "planner", "poll_seconds: must be 1 to 86400"),
    ("= 600\n", "= 86401\n", "planner", "poll_seconds: must be 1 to 86400"),
    ("= 90", "= 0", "retention", "days: must be 1 to 3650"),
    ("= 90", "= 3651", "retention", "days: must be 1 to 3650"),
    ("days = 90", "weeks = 4", "retention.weeks", "allowed here: days"),
    ('key_file = "/', 'key_file = "./', "secrets", "sealing.key' must be an absolute path"),
    ("open = true", 'open = "yes"', "metrics.open", "Expected `bool`"),
    ("one_by_one = false", 'one_by_one = "no"', "metrics.one_by_one", "Expected `bool`"),
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
    ("= 5\n", "= 0\n", "provider[0]", "max_concurrent: 0 is not above 0"),
    ("= 5\n", '= "5"\n', "provider[0].max_concurrent", "Expected `int`, got `str`"),
    ("= 45\n", "= -1\n", "provider[0]", "appear_seconds: -1 is not 0 to 3600"),
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


def _keys_of(kind: Any) -> set[str]:
    """Every key that a table may have, those of tables in it with a dot."""
    for option in getattr(kind, "types", ()):
        if isinstance(option, msgspec.inspect.StructType):
            kind = option
    kind = getattr(kind, "item_type", kind)
    if not isinstance(kind, msgspec.inspect.StructType):
        return set()
    return {
        f"{field.encode_name}.{inner}" if inner else field.encode_name
        for field in kind.fields
        for inner in _keys_of(field.type) or {""}
    }


def _values(document: Any) -> dict[str, Any]:
    """What a document gives each key."""
    if isinstance(document, list) and document and isinstance(document[0], dict):
        return _values(document[0])
    if not isinstance(document, dict):
        return {"": document}
    return {
        f"{name}.{inner}" if inner else name: value
        for name, content in document.items()
        for inner, value in _values(content).items()
    }


def test_every_key_that_there_is_has_been_given_a_wrong_value(whole: str) -> None:
    keys = _keys_of(msgspec.inspect.type_info(CoordinatorConfig))
    assert {"data_dir", "planner.creates_per_host", "provider.max_concurrent", "database.url"} <= keys
    right = _values(tomllib.loads(whole))
    assert set(right) == keys
    wrong = set()
    for old, new, _, _ in WRONG:
        with suppress(tomllib.TOMLDecodeError):
            given = _values(tomllib.loads(whole.replace(old, new, 1)))
            wrong |= {key for key in given.keys() & keys if given[key] != right[key]}
    assert keys - wrong == set()


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


def test_what_stops_the_start_is_said_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text(f'data_dir = "{tmp_path}"\n[grpc]\nbind = "127.0.0.1:0"\n[http]\nbind = "127.0.0.1:0"')
    (tmp_path / "hostler.db").write_bytes(b"junk" * 1000)
    ended = _coordinator("--config", str(file))
    assert ended.returncode == 1
    assert ended.stderr.startswith("hostler-coordinator: ")
    assert len(ended.stderr.splitlines()) == 1
    assert "(" in ended.stderr  # the hint


AMISS = {
    "a file as data_dir": ('data_dir = "{0}/file"', "data_dir", "{0}/file is not a directory"),
    "a data_dir below a file": ('data_dir = "{0}/file/data"', "data_dir", "{0}/file is not a directory"),
    "a data_dir in /proc": ('data_dir = "/proc/hostler"', "data_dir", "/proc: no file can be made there"),
    "a database in no folder": (
        "[database]\nurl = 'sqlite:///{0}/no/x.db'",
        "database.url",
        "{0}/no is not a directory",
    ),
    "a folder as database": ("[database]\nurl = 'sqlite:///{0}/folder'", "database.url", "{0}/folder is not a file"),
    "a key file in no folder": ("[secrets]\nkey_file = '{0}/no/key'", "secrets.key_file", "there is no {0}/no"),
    "a folder as key file": ("[secrets]\nkey_file = '{0}/folder'", "secrets.key_file", "{0}/folder: "),
    "a key that others read": ("[secrets]\nkey_file = '{0}/file'", "secrets.key_file", "others than its owner"),
    "a key that is too short": ("[secrets]\nkey_file = '{0}/short'", "secrets.key_file", "holds 5 bytes instead of 32"),
    "a host that is none": ("[http]\nbind = 'not a host!:80'", "http", "'not a host!:80' is not HOST:PORT"),
}


@pytest.mark.parametrize("arguments", [["--check"], []], ids=["check", "start"])
@pytest.mark.parametrize("amiss", AMISS)
def test_what_a_file_names_is_looked_at(tmp_path: Path, amiss: str, arguments: list[str]) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "file").write_bytes(b"x" * 32)
    (tmp_path / "short").write_bytes(b"short")
    (tmp_path / "short").chmod(0o600)
    document, key, reason = (part.replace("{0}", str(tmp_path)) for part in AMISS[amiss])
    file = tmp_path / "coordinator.toml"
    file.write_text(document if "data_dir" in document else f"data_dir = '{tmp_path}/data'\n{document}")
    before = sorted(tmp_path.rglob("*"))
    ended = _coordinator("--config", str(file), *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"hostler-coordinator: {file}: key '{key}'")
    assert reason in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("key", ["http.bind", "http.runner_bind", "grpc.bind", "grpc.agents_bind", "grpc.clients_bind"])
def test_a_host_that_nobody_knows_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    asked: list[str] = []

    def unknown(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    tables: dict[str, dict[str, object]] = {
        "http": {"bind": "127.0.0.1:1", "runner_bind": "127.0.0.1:2"},
        "grpc": {"agents_bind": "127.0.0.1:3", "clients_bind": "127.0.0.1:4", "public_names": ["c.example"]},
    }
    table, name = key.split(".")
    tables[table][name] = "localhost:80"
    settings = config.convert({"data_dir": str(tmp_path)} | tables, CoordinatorConfig, "file")
    with pytest.raises(ConfigError, match=rf"key '{key}': the host 'localhost' is not known: Name or service"):
        check(settings, {})
    assert asked == ["localhost"]  # addresses are not asked about


def test_an_unknown_argument_ends_with_2() -> None:
    assert _coordinator("--chek").returncode == 2
