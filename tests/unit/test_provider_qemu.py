"""The bash provider as its callers start it, with a stand-in for QEMU."""

import asyncio
import base64
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pycdlib
import pytest

from providers.exec import (
    ExecProvider,
    InstanceExists,
    InstanceNotFound,
    ProviderCommandFailed,
    ProviderTimeout,
)
from providers.exec.check import PoolSpecs, Verdict, check
from providers.exec.environment import Command
from tests.samples.qemu_cloud import EXECUTABLE, QemuCloud, path_with_stand_in, spec

POOL = "pool-1"


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[QemuCloud]:
    monkeypatch.setenv("PATH", path_with_stand_in())
    one = QemuCloud(tmp_path)
    yield one
    one.end_all()


@pytest.fixture
def provider(cloud: QemuCloud) -> ExecProvider:
    return ExecProvider(cloud.settings(), "controller-1")


def seed(cloud: QemuCloud, name: str) -> dict[str, bytes]:
    iso = pycdlib.PyCdlib()
    iso.open(str(cloud.machines / name / "seed.iso"))
    found = {}
    for file in ("user-data", "meta-data"):
        into = io.BytesIO()
        iso.get_file_from_iso_fp(into, rr_path=f"/{file}")
        found[file] = into.getvalue()
    iso.close()
    return found


def arguments(cloud: QemuCloud, name: str) -> list[str]:
    return (cloud.machines / name / "arguments").read_text().rstrip("\0").split("\0")


async def test_a_machine_lives_its_whole_life(cloud: QemuCloud, provider: ExecProvider) -> None:
    made = await provider.create(spec(), clean_up=False)
    assert (made.provider_id, made.name, made.status) == ("runner-1", "runner-1", "running")
    assert await provider.list(POOL, None) == [made]
    assert await provider.list("another pool", None) == []
    assert await ExecProvider(cloud.settings(), "another controller").list(POOL, None) == []
    for _ in range(2):
        await provider.stop("runner-1", POOL, None)
        assert (await provider.get("runner-1", POOL, None)).status == "stopped"
    assert cloud.processes() == {}
    for _ in range(2):
        await provider.start("runner-1", POOL, None)
        assert (await provider.get("runner-1", POOL, None)).status == "running"
    assert list(cloud.processes().values()) == ["runner-1"]
    for _ in range(2):
        await provider.delete("runner-1", POOL, None)
        assert cloud.traces() == []
    assert await provider.list(POOL, None) == []


@pytest.mark.parametrize("command", ["get", "start", "stop"])
async def test_what_is_not_there_is_said(provider: ExecProvider, command: str) -> None:
    with pytest.raises(InstanceNotFound):
        await getattr(provider, command)("runner-1", POOL, None)


async def test_a_controller_touches_no_other_controllers_machines(cloud: QemuCloud, provider: ExecProvider) -> None:
    made = await provider.create(spec())
    other = ExecProvider(cloud.settings(), "another controller")
    with pytest.raises(InstanceNotFound):
        await other.get("runner-1", POOL, None)
    await other.delete("runner-1", POOL, None)
    await other.remove_all(POOL, None)
    with pytest.raises(InstanceExists):
        await other.create(spec())
    assert await provider.list(POOL, None) == [made]


async def test_the_guest_gets_its_script_and_its_name(cloud: QemuCloud, provider: ExecProvider) -> None:
    await provider.create(spec())
    told = seed(cloud, "runner-1")
    assert told["user-data"] == b"#!/bin/sh\necho hello\n"
    assert msgspec.json.decode(told["meta-data"]) == {"instance-id": "runner-1", "local-hostname": "runner-1"}
    given = arguments(cloud, "runner-1")
    assert [given[given.index(option) + 1] for option in ("-smp", "-m", "-name")] == ["1", "256", "runner-1"]


async def test_no_secret_is_in_a_process_list_or_open_to_others(cloud: QemuCloud, provider: ExecProvider) -> None:
    script = base64.b64encode(b"#!/bin/sh\ntoken=token-in-the-clear\n").decode()
    await provider.create(spec(extra_specs={"runner_install_template": script}))
    folder = cloud.machines / "runner-1"
    seen = (folder / "arguments").read_bytes() + (folder / "environment").read_bytes()
    assert b"token-in-the-clear" not in seen
    assert script.encode() not in seen
    assert [path.name for path in (folder, *folder.iterdir()) if path.stat().st_mode & 0o077] == []
    (holder,) = [path.name for path in folder.iterdir() if b"token-in-the-clear" in path.read_bytes()]
    assert holder == "seed.iso"


async def test_a_second_create_of_a_name_leaves_the_first_alone(cloud: QemuCloud, provider: ExecProvider) -> None:
    made = await provider.create(spec())
    with pytest.raises(InstanceExists):
        await provider.create(spec(pool_id="pool-2"))
    assert await provider.list(POOL, None) == [made]
    assert cloud.traces() == ["process in runner-1", "runner-1"]


async def test_of_creates_at_once_one_makes_the_machine(cloud: QemuCloud, provider: ExecProvider) -> None:
    (cloud.machines / "slow").touch()
    creates = [asyncio.create_task(provider.create(spec(), clean_up=False)) for _ in range(4)]
    refused, _ = await asyncio.wait(creates, return_when=asyncio.FIRST_COMPLETED)
    (cloud.machines / "slow").unlink()
    ends = await asyncio.gather(*creates, return_exceptions=True)
    assert [type(end) for end in ends if isinstance(end, BaseException)] == [InstanceExists] * 3
    assert isinstance(refused.pop().exception(), InstanceExists)
    assert cloud.traces() == ["process in runner-1", "runner-1"]


async def test_a_create_that_fails_leaves_nothing_by_itself(cloud: QemuCloud, provider: ExecProvider) -> None:
    (cloud.machines / "full").touch()
    with pytest.raises(ProviderCommandFailed, match=r"no space left\n.*QEMU did not start"):
        await provider.create(spec(), clean_up=False)
    assert cloud.traces() == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": "no-such"}, "there is no image 'no-such'"),
        ({"image": "../../etc/passwd"}, "there is no image"),
        ({"image": "$(touch hit)"}, "there is no image"),
        ({"flavor": "large"}, 'has no flavor_large = "…"'),
        ({"flavor": "sm.ll"}, "has no flavor_sm"),
        ({"flavor": "small/p; e touch hit"}, "cannot be a flavor's name"),
        ({"os_type": "windows"}, "only linux on amd64"),
        ({"extra_specs": {}}, "no usable .extra_specs.runner_install_template"),
        ({"extra_specs": {"runner_install_template": 7}}, "is not base64"),
        ({"extra_specs": {"runner_install_template": "&&&"}}, "is not base64"),
        ({"extra_specs": {"runner_install_template": "aGVsbG8"}}, "is not base64"),
        ({"extra_specs": {"runner_install_template": "$(touch hit)`touch hit`"}}, "is not base64"),
    ],
)
async def test_what_cannot_be_made_is_said_and_leaves_nothing(
    cloud: QemuCloud, provider: ExecProvider, changes: dict[str, Any], reason: str
) -> None:
    wanted = spec(**changes)
    if wanted.os_type == "windows":
        wanted = msgspec.structs.replace(wanted, tools=(msgspec.structs.replace(wanted.tools[0], os="win"),))
    with pytest.raises(ProviderCommandFailed, match=reason):
        await provider.create(wanted, clean_up=False)
    assert cloud.traces() == []
    assert not list(cloud.machines.parent.rglob("hit"))


@pytest.mark.parametrize(
    "stdin", ["", "null", "[]", "{", '{"name": "a b"}', '{"name": "../up"}', '{"name": "-rf"}', '{"name": {}}']
)
async def test_bootstrap_parameters_that_are_none_are_refused(cloud: QemuCloud, stdin: str) -> None:
    code, errors = await called(cloud, Command.CREATE, stdin=stdin)
    assert code == 1
    assert "qemu.bash: " in errors
    assert cloud.traces() == []


@pytest.mark.parametrize(
    "name", ["..", ".", "../machines/runner-1", "*", "-rf", "a b", "$(touch hit)", "'; touch hit; '"]
)
async def test_no_name_leads_out_of_the_directory(cloud: QemuCloud, provider: ExecProvider, name: str) -> None:
    await provider.create(spec())
    for command in (Command.DELETE, Command.GET, Command.START, Command.STOP):
        assert (await called(cloud, command, name))[0] == 30
    assert cloud.traces() == ["process in runner-1", "runner-1"]
    assert not list(cloud.machines.parent.rglob("hit"))


@pytest.mark.parametrize("pool", ["two words", "a'b\"c", "$(touch hit)", "*", "linux-5f1c/ü", "-n"])
async def test_a_pool_id_may_be_any_text(cloud: QemuCloud, provider: ExecProvider, pool: str) -> None:
    await provider.create(spec(pool_id=pool))
    await provider.create(spec("runner-2"))
    assert [one.name for one in await provider.list(pool, None)] == ["runner-1"]
    await provider.remove_all(pool, None)
    assert cloud.traces() == ["process in runner-2", "runner-2"]
    assert not list(cloud.machines.parent.rglob("hit"))


async def test_all_of_a_controller_are_removed_when_no_pool_is_named(cloud: QemuCloud, provider: ExecProvider) -> None:
    await provider.create(spec())
    await provider.create(spec("runner-2", pool_id="pool-2"))
    assert await called(cloud, Command.REMOVE_ALL, pool="") == (0, "")
    assert cloud.traces() == []


async def test_one_killed_while_it_makes_a_machine_leaves_what_is_listed_and_can_be_deleted(
    cloud: QemuCloud, provider: ExecProvider
) -> None:
    (cloud.machines / "slow").touch()
    hurried = ExecProvider(msgspec.structs.replace(cloud.settings(), timeout_seconds=3), "controller-1")
    with pytest.raises(ProviderTimeout):
        await hurried.create(spec(), clean_up=False)
    (left,) = await provider.list(POOL, None)
    assert (left.name, left.status, left.provider_fault) == ("runner-1", "error", b"making it was broken off")
    with pytest.raises(ProviderCommandFailed, match="never made as a whole"):
        await provider.start("runner-1", POOL, None)
    await provider.delete("runner-1", POOL, None)
    assert cloud.traces() == []


async def test_a_delete_waits_for_what_a_killed_create_has_left_running(
    cloud: QemuCloud, provider: ExecProvider
) -> None:
    """GARM kills the executable alone: what it had started goes on and makes the machine."""
    (cloud.machines / "slow").touch()
    making = await asyncio.create_subprocess_exec(
        EXECUTABLE, stdin=asyncio.subprocess.PIPE, env=variables(cloud, Command.CREATE), start_new_session=True
    )
    assert making.stdin
    making.stdin.write(spec().encode())
    making.stdin.close()
    while not (cloud.machines / "waiting").exists():
        await asyncio.sleep(0.01)
    making.kill()
    await making.wait()
    deleting = asyncio.create_task(provider.delete("runner-1", POOL, None))
    await asyncio.sleep(0.3)
    assert not deleting.done()
    (cloud.machines / "slow").unlink()
    await deleting
    assert cloud.traces() == []


async def test_the_caller_is_not_held_up_by_the_machine(cloud: QemuCloud, tmp_path: Path) -> None:
    """Callers know by files that a process inherits whether it still makes something. A machine keeps none of them."""
    provider = ExecProvider(cloud.settings(), "controller-1", calls=tmp_path / "calls")
    await provider.create(spec())
    assert not provider.is_making("runner-1")


async def test_another_process_of_a_dead_machines_number_is_not_killed(
    cloud: QemuCloud, provider: ExecProvider
) -> None:
    await provider.create(spec())
    ((pid, _),) = cloud.processes().items()
    os.kill(pid, signal.SIGKILL)
    stranger = await asyncio.create_subprocess_exec("sleep", "60")
    (cloud.machines / "runner-1" / "pid").write_text(f"{stranger.pid}\n")
    await provider.delete("runner-1", POOL, None)
    assert cloud.traces() == []
    assert stranger.returncode is None
    stranger.kill()
    await stranger.wait()


async def test_a_machine_that_powers_off_is_stopped(cloud: QemuCloud, provider: ExecProvider) -> None:
    await provider.create(spec())
    cloud.end_all()
    while cloud.processes():
        await asyncio.sleep(0.01)
    (one,) = await provider.list(POOL, None)
    assert (one.status, one.provider_fault) == ("stopped", b"")


async def test_it_needs_nothing_of_its_callers_environment(cloud: QemuCloud) -> None:
    bare = {name: value for name, value in variables(cloud, Command.LIST).items() if name.startswith("GARM_")}
    process = await asyncio.create_subprocess_exec(EXECUTABLE, stdout=asyncio.subprocess.PIPE, env=bare)
    answer, _ = await process.communicate()
    assert (process.returncode, msgspec.json.decode(answer)) == (0, [])


@pytest.mark.parametrize("missing", ["GARM_COMMAND", "GARM_CONTROLLER_ID", "GARM_PROVIDER_CONFIG_FILE", "GARM_POOL_ID"])
async def test_a_variable_that_is_missing_is_named(cloud: QemuCloud, missing: str) -> None:
    given = {name: value for name, value in variables(cloud, Command.LIST).items() if name != missing}
    process = await asyncio.create_subprocess_exec(EXECUTABLE, stderr=asyncio.subprocess.PIPE, env=given)
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert f"{missing}: parameter null or not set" in errors.decode()


async def test_another_interface_than_its_own_is_refused(cloud: QemuCloud) -> None:
    newer = variables(cloud, Command.LIST) | {"GARM_INTERFACE_VERSION": "v0.1.1"}
    process = await asyncio.create_subprocess_exec(EXECUTABLE, stderr=asyncio.subprocess.PIPE, env=newer)
    _, errors = await process.communicate()
    assert (process.returncode, errors) == (1, b"qemu.bash: does not implement v0.1.1\n")


async def test_it_passes_its_check(cloud: QemuCloud) -> None:
    found = {
        one.subject: one for one in await check(cloud.settings(), "controller-1", [PoolSpecs("id-1", "small", {})])
    }
    assert (found["version"].verdict, found["version"].detail) == (Verdict.OK, "qemu.bash 1.0")
    assert found["machines of pool small"].verdict is Verdict.OK
    assert Verdict.PROBLEM not in {one.verdict for one in found.values()}


async def test_what_its_configuration_lacks_is_said(cloud: QemuCloud, provider: ExecProvider) -> None:
    cloud.config.write_text(cloud.config.read_text().replace("accelerator", "#accelerator"))
    with pytest.raises(ProviderCommandFailed, match='has no accelerator = "…"'):
        await provider.create(spec(), clean_up=False)
    assert cloud.traces() == []


def variables(cloud: QemuCloud, command: Command, name: str = "", pool: str = POOL) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "GARM_COMMAND": command,
        "GARM_CONTROLLER_ID": "controller-1",
        "GARM_PROVIDER_CONFIG_FILE": str(cloud.config),
        "GARM_POOL_ID": pool,
        "GARM_INSTANCE_ID": name,
    }


async def called(
    cloud: QemuCloud, command: Command, name: str = "", *, pool: str = POOL, stdin: str = ""
) -> tuple[int | None, str]:
    """Exit code and standard error."""
    process = await asyncio.create_subprocess_exec(
        EXECUTABLE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=variables(cloud, command, name, pool),
    )
    _, errors = await process.communicate(stdin.encode())
    return process.returncode, errors.decode()
