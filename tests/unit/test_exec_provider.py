"""The exec provider against executables that behave and, most of them, misbehave."""

import asyncio
import base64
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import pytest

from providers.contract import Arch, ProviderError
from providers.exec import (
    CloudSpec,
    ExecError,
    ExecProvider,
    ExecSettings,
    InstanceExists,
    InstanceFaulty,
    InstanceNotFound,
    ProviderAnswerInvalid,
    ProviderCommandFailed,
    ProviderNotStarted,
    ProviderTimeout,
    ProxyConfig,
    RequestInvalid,
    Tool,
)

PROVIDERS = Path(__file__).parents[1] / "fixtures" / "providers"
CONTROLLER = "6a1a5ff1-5b8f-4a5b-9f5c-0a5f3d3f9a01"
POOL = "pool-1"
SPEC = CloudSpec(
    name="runner-1",
    tools=(Tool(os="linux", architecture="x64", temp_download_token="download-secret"),),
    repo_url="https://forge.example/o/r",
    callback_url="https://hostler.example/api/v1/callbacks",
    metadata_url="https://hostler.example/api/v1/metadata",
    instance_token="instance-secret",
    arch=Arch.AMD64,
    flavor="small",
    image="debian-12",
    pool_id=POOL,
    proxy_config=ProxyConfig(https_proxy="https://user:guest%2Dsecret@proxy.example"),
)

Make = Callable[..., ExecProvider]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.touch()
    return path


@pytest.fixture
def make(config: Path) -> Make:
    def making(executable: str, content: str = "", **settings: Any) -> ExecProvider:
        config.write_text(content)
        made = ExecSettings(name="cloud", executable=str(PROVIDERS / executable), config_file=str(config), **settings)
        return ExecProvider(made, CONTROLLER)

    return making


def calls(config: Path) -> list[str]:
    return config.with_name("config.calls").read_text().splitlines()


@pytest.mark.parametrize("version", ["v0.1.0", "v0.1.1"])
async def test_an_instance_lives_its_whole_life(make: Make, tmp_path: Path, version: str) -> None:
    cloud = make("file-cloud", f'directory = "{tmp_path}"', interface_version=version)
    assert await cloud.list(POOL, None) == []
    made = await cloud.create(SPEC)
    assert (made.name, made.status, made.addresses[0].type) == ("runner-1", "running", "private")
    assert await cloud.list(POOL, {"a": 1}) == [made]
    assert await cloud.list("pool-2", None) == []
    assert await cloud.get("runner-1", POOL, None) == made
    await cloud.stop(made.provider_id, POOL, None)
    assert (await cloud.get(made.provider_id, POOL, None)).status == "stopped"
    await cloud.start(made.provider_id, POOL, None)
    assert (await cloud.get(made.provider_id, POOL, None)).status == "running"
    await cloud.delete(made.provider_id, POOL, None)
    assert await cloud.list(POOL, None) == []
    await cloud.delete("runner-1", POOL, None)
    with pytest.raises(InstanceNotFound):
        await cloud.get("runner-1", POOL, None)


async def test_a_second_create_of_a_name_leaves_the_first_alone(make: Make, tmp_path: Path) -> None:
    cloud = make("file-cloud", f'directory = "{tmp_path}"')
    made = await cloud.create(SPEC)
    with pytest.raises(InstanceExists) as refused:
        await cloud.create(SPEC)
    assert refused.value.exit_code == 31
    assert await cloud.list(POOL, None) == [made]


async def seen_by(cloud: ExecProvider, spec: CloudSpec | None = None) -> dict[str, Any]:
    shown = await cloud.create(spec) if spec else await cloud.get("i-1", POOL, {"a": [1]})
    seen: dict[str, Any] = json.loads(shown.provider_fault)
    return seen


async def test_the_environment_is_built_from_zero(make: Make, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOSTLERTEST_REGION", "eu")
    monkeypatch.setenv("GARM_SOMETHING", "x")
    monkeypatch.setenv("GARMENT", "x")
    monkeypatch.setenv("https_proxy", "http://proxy.example")
    seen = await seen_by(make("shows-environment", environment=("HOSTLERTEST_", "G")))
    own = {"LC_CTYPE", "PWD", "SHLVL", "_"}  # what an interpreter adds to its own environment
    environment = {k: v for k, v in seen["environment"].items() if k not in own}
    assert environment == {
        "GARM_COMMAND": "GetInstance",
        "GARM_CONTROLLER_ID": CONTROLLER,
        "GARM_PROVIDER_CONFIG_FILE": str(config),
        "GARM_POOL_ID": POOL,
        "GARM_INSTANCE_ID": "i-1",
        "HOSTLERTEST_REGION": "eu",
        "https_proxy": "http://proxy.example",
        "GARM_INTERFACE_VERSION": "v0.1.0",
    } | {k: v for k, v in os.environ.items() if k.startswith("G") and not k.startswith("GARM")}
    assert [name for name in seen["order"] if name not in own][-1] == "GARM_INTERFACE_VERSION"
    assert seen["stdin"] == ""


@pytest.mark.parametrize(("specs", "decoded"), [({"a": [1]}, {"a": [1]}), ({}, None), (None, None)])
async def test_the_newer_interface_gets_extra_specs(make: Make, specs: dict[str, Any] | None, decoded: object) -> None:
    shown = await make("shows-environment", interface_version="v0.1.1").get("i-1", POOL, specs)
    environment = json.loads(shown.provider_fault)["environment"]
    assert json.loads(base64.b64decode(environment["GARM_POOL_EXTRASPECS"])) == decoded
    assert environment["GARM_INTERFACE_VERSION"] == "v0.1.1"


async def test_create_gets_the_bootstrap_parameters(make: Make) -> None:
    spec = msgspec.structs.replace(SPEC, extra_specs={"disk": 20})
    seen = await seen_by(make("shows-environment", interface_version="v0.1.1"), spec)
    assert json.loads(seen["stdin"]) == json.loads(spec.encode())
    assert json.loads(base64.b64decode(seen["environment"]["GARM_POOL_EXTRASPECS"])) == {"disk": 20}
    assert "GARM_INSTANCE_ID" not in seen["environment"]


async def test_one_that_hangs_is_killed_at_its_deadline_and_cleaned_up_after(make: Make, config: Path) -> None:
    began = monotonic()
    with pytest.raises(ProviderTimeout, match=r"not done after 1\.5 s") as late:
        await make("hangs", timeout_seconds=1.5).create(SPEC)
    assert 1.5 <= monotonic() - began < 10
    assert late.value.stderr == "waiting for the cloud\n"
    assert late.value.left_behind is None
    assert calls(config) == ["CreateInstance ", "DeleteInstance runner-1"]


async def test_a_grandchild_that_holds_the_output_is_told_of(make: Make) -> None:
    with pytest.raises(ProviderTimeout, match="had ended with exit code 0, a process it left kept its output open"):
        await make("leaves-grandchild", timeout_seconds=1.5).list(POOL, None)


async def test_a_flood_on_standard_output_is_stopped(make: Make) -> None:
    began = monotonic()
    with pytest.raises(ProviderAnswerInvalid, match="printed more than 1048576 bytes and was killed") as flooded:
        await make("floods-stdout").list(POOL, None)
    assert monotonic() - began < 10
    assert flooded.value.stderr == "listing everything\n"


async def test_of_a_flood_on_standard_error_the_end_is_kept(make: Make) -> None:
    with pytest.raises(ProviderCommandFailed, match="the reason stands here") as failed:
        await make("floods-stderr").list(POOL, None)
    assert len(failed.value.stderr) == 64 * 1024
    assert len(str(failed.value)) < 3000


@pytest.mark.parametrize(
    ("executable", "reason"),
    [("garbage", "not JSON: .*it printed: connecting to the cloud"), ("half-json", "not JSON: .*truncated")],
)
async def test_an_answer_that_is_none_is_quoted(make: Make, executable: str, reason: str) -> None:
    with pytest.raises(ProviderAnswerInvalid, match=reason):
        await make(executable).create(SPEC)
    with pytest.raises(ProviderAnswerInvalid, match=reason):
        await make(executable).list(POOL, None)


async def test_a_fault_in_plain_text_is_refused(make: Make, config: Path) -> None:
    answer = '{"provider_id": "i-1", "name": "runner-1", "status": "error", "provider_fault": "no quota"}'
    with pytest.raises(ProviderAnswerInvalid, match=r"provider_fault.*it printed: .*no quota"):
        await make("prints", answer).create(SPEC)
    assert calls(config) == ["CreateInstance ", "DeleteInstance runner-1"]


async def test_an_instance_made_faulty_is_deleted_by_its_id(make: Make, config: Path) -> None:
    fault = base64.b64encode(b"no quota for instance-secret").decode()
    answer = f'{{"provider_id": "i-9", "name": "runner-1", "status": "error", "provider_fault": "{fault}"}}'
    with pytest.raises(InstanceFaulty, match=r"status error: no quota for \*\*\*"):
        await make("prints", answer).create(SPEC)
    assert calls(config) == ["CreateInstance ", "DeleteInstance i-9"]


async def test_a_create_that_answers_nothing_failed(make: Make, config: Path) -> None:
    with pytest.raises(ProviderAnswerInvalid, match="describes no instance"):
        await make("prints", "{}").create(SPEC)
    assert calls(config)[-1] == "DeleteInstance runner-1"


async def test_an_empty_object_means_that_the_machine_is_gone(make: Make) -> None:
    with pytest.raises(InstanceNotFound):
        await make("prints", "{}").get("i-1", POOL, None)


async def test_null_is_an_empty_list(make: Make) -> None:
    assert await make("prints", "null").list(POOL, None) == []


async def test_exit_30_means_gone_only_where_an_instance_was_named(make: Make, config: Path) -> None:
    cloud = make("exits", "30")
    await cloud.delete("i-1", POOL, None)
    for method in (cloud.get, cloud.start, cloud.stop):
        with pytest.raises(InstanceNotFound):
            await method("i-1", POOL, None)
    with pytest.raises(ProviderCommandFailed, match="exit code 30"):
        await cloud.list(POOL, None)
    config.with_name("config.calls").unlink()
    with pytest.raises(ProviderCommandFailed, match="exit code 30: as configured") as failed:
        await cloud.create(SPEC)
    assert failed.value.left_behind is None
    assert calls(config) == ["CreateInstance ", "DeleteInstance runner-1"]


async def test_exit_31_of_a_create_deletes_nothing(make: Make, config: Path) -> None:
    cloud = make("exits", "31")
    with pytest.raises(InstanceExists):
        await cloud.create(SPEC)
    assert calls(config) == ["CreateInstance "]
    with pytest.raises(ProviderCommandFailed):
        await cloud.delete("i-1", POOL, None)


async def test_a_failed_clean_up_is_told_with_the_failed_create(make: Make, config: Path) -> None:
    with pytest.raises(ProviderCommandFailed) as failed:
        await make("exits", "1").create(SPEC)
    assert isinstance(failed.value.left_behind, ProviderCommandFailed)
    assert "deleting what it may have made failed too" in str(failed.value)
    assert "DeleteInstance of 'runner-1' ended with exit code 1" in str(failed.value)
    assert calls(config) == ["CreateInstance ", "DeleteInstance runner-1"]


async def test_a_signal_is_named(make: Make) -> None:
    with pytest.raises(ProviderCommandFailed, match="ended by signal SIGSEGV") as failed:
        await make("segfaults").start("i-1", POOL, None)
    assert failed.value.exit_code == -signal.SIGSEGV


async def test_one_that_needs_a_variable_says_which_and_gets_it_when_it_is_listed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTLERTEST_REGION", "eu")
    with pytest.raises(ProviderCommandFailed, match="HOSTLERTEST_REGION: unbound variable") as failed:
        await make("needs-variable").create(SPEC)
    assert isinstance(failed.value.left_behind, ProviderCommandFailed)
    assert await make("needs-variable", environment=("HOSTLERTEST_",)).list(POOL, None) == []


async def test_no_error_tells_a_secret(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:host-secret@proxy.example")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "cloud-secret")
    with pytest.raises(ProviderCommandFailed) as failed:
        await make("tells-secrets", environment=("AWS_",)).create(SPEC)
    cleanup = failed.value.left_behind
    assert isinstance(cleanup, ExecError)
    told = f"{failed.value} {failed.value.stderr} {cleanup.stderr}"
    assert "GARM_COMMAND=CreateInstance" in told
    assert "GARM_COMMAND=DeleteInstance" in told
    for secret in (
        "instance-secret",
        "download-secret",
        "guest%2Dsecret",
        "guest-secret",
        "host-secret",
        "cloud-secret",
    ):
        assert secret not in told


async def test_no_error_tells_what_of_a_pools_extra_specs_is_secret(make: Make) -> None:
    """Nor the script in it, whose base64 holds the machine's token; on whichever call."""
    script = base64.b64encode(b"#!/bin/sh\nTOKEN=instance-secret\n").decode()
    passwords = [{"admin_password": "hunter22-hunter22"}]
    specs = {"runner_install_template": script, "nested": passwords, "subnet": "net-1234"}
    cloud = make("tells-secrets", interface_version="v0.1.1")
    with pytest.raises(ProviderCommandFailed) as made:
        await cloud.create(msgspec.structs.replace(SPEC, extra_specs=specs))
    with pytest.raises(ProviderCommandFailed) as listed:
        await cloud.list(POOL, specs)
    packed = base64.b64encode(msgspec.json.encode(specs)).decode()
    for told in (made.value.stderr, listed.value.stderr):
        assert "GARM_POOL_EXTRASPECS=***" in told
        assert not [secret for secret in (script, "hunter22", packed) if secret in told]
    assert "net-1234" in made.value.stderr


async def test_one_that_cannot_be_started_is_told_so(make: Make, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x00not a program")
    broken.chmod(0o755)
    with pytest.raises(ProviderNotStarted, match=r"cannot be started: Exec format error \(check `executable`"):
        await make(str(broken)).create(SPEC)
    cloud = make(str(broken))
    broken.unlink()
    with pytest.raises(ProviderNotStarted, match="No such file"):
        await cloud.list(POOL, None)


async def test_extra_specs_beyond_what_a_variable_holds_are_told_so(make: Make) -> None:
    cloud = make("prints", "[]", interface_version="v0.1.1")
    with pytest.raises(ProviderNotStarted, match="make the pool's extra_specs smaller"):
        await cloud.list(POOL, {"script": "x" * 200_000})


async def test_a_request_that_lacks_its_subject_is_refused_without_a_call(make: Make, config: Path) -> None:
    cloud = make("exits", "0")
    with pytest.raises(RequestInvalid, match="no pool id"):
        await cloud.delete("i-1", "", None)
    with pytest.raises(RequestInvalid, match="no instance"):
        await cloud.delete("", POOL, None)
    with pytest.raises(RequestInvalid, match="no runner archive"):
        await cloud.create(msgspec.structs.replace(SPEC, tools=()))
    assert not config.with_name("config.calls").exists()


async def test_no_more_run_at_once_than_allowed(make: Make, config: Path) -> None:
    cloud = make("counts-itself", max_concurrent=2)
    await asyncio.gather(*(cloud.list(POOL, None) for _ in range(6)))
    assert config.with_name("config.most").read_text() == "2"


def test_every_error_has_a_code_of_its_own_and_a_hint() -> None:
    kinds = ExecError.__subclasses__()
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert all(issubclass(kind, ProviderError) for kind in kinds)
    assert all(kind.hint for kind in kinds if kind is not RequestInvalid)
