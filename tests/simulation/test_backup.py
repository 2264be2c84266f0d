"""A backup taken while jobs come in and run, and the coordinator that goes on from it on another database."""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from coordinator.fleet import strays
from coordinator.store.keys import KEY_FILE, KeyPlace
from coordinator.store.restore import restore
from protos.hostler.v1.admin_pb2 import GetHostRequest
from tests.simulation.farm import LABELS, Farm, farm


async def command(module: str, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"from {module} import main; main()",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def backed_up(one: Farm, file: Path) -> None:
    address = f"127.0.0.1:{one.grpc_port}"
    code, said = await command("hostler.cli.main", "backup", str(file), "--coordinator", address)
    assert code == 0, said


async def restored(one: Farm, file: Path) -> tuple[int, str]:
    return await command("coordinator.main", "restore", str(file), "--config", str(one.directory / "coordinator.toml"))


def lose_the_database(one: Farm) -> None:
    for path in Path(one.config.data_dir).glob("hostler.db*"):
        path.unlink()


async def test_after_the_database_is_lost_all_goes_on_from_the_backup(tmp_path: Path) -> None:
    file = tmp_path / "backup.gz"
    async with farm(tmp_path, coordinated=False) as one:
        await one.start_coordinator_process()
        await one.declare()
        waiting = [one.queue([*LABELS, "unknown"]) for _ in range(3)]
        for job in waiting:
            await one.until_waiting(job, "")
        await one.start_agent()
        one.guests.may_end.clear()
        busy = one.queue()
        await one.until_instance(lambda instance: instance.runner_status == "active")
        await backed_up(one, file)

        code, said = await restored(one, file)
        assert (code, "another coordinator uses" in said) == (1, True)
        await one.kill("coordinator")
        code, said = await restored(one, file)
        assert (code, "move the old one away" in said) == (1, True)
        lose_the_database(one)
        code, said = await restored(one, file)
        assert (code, said.startswith("restored ")) == (0, True), said

        await one.start_coordinator_process()
        one.guests.may_end.set()
        await one.completed(busy)
        kept = {job.forge_job_id for job in await one.jobs()}
        assert kept >= {job.id for job in [*waiting, busy]}
        later = one.queue()
        await one.completed(later)
        assert len(one.guests.booted) == 2
        for job in waiting:
            one.forge.cancel_job(job.id)
        await one.assert_nothing_left()


async def test_a_machine_of_after_the_backup_is_kept_while_it_has_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restored database knows neither machine nor job."""
    monkeypatch.setattr(strays, "_ASK_AGAIN_SECONDS", 0.2)
    file = tmp_path / "backup.gz"
    async with farm(tmp_path, orphan_grace=timedelta(seconds=0.3)) as one:
        await one.declare()
        await backed_up(one, file)
        await one.start_agent()
        one.guests.may_end.clear()
        busy = one.queue()
        await one.until_instance(lambda instance: instance.runner_status == "active")
        await one.stop("coordinator")
        lose_the_database(one)
        await restore(one.config.database_url, file, KeyPlace(Path(one.config.data_dir) / KEY_FILE))
        await one.start_coordinator()
        await one.until_host_connected()
        await one.until_true(lambda: kept_as_busy(one))
        assert len(one.guests.running()) == 1
        one.guests.may_end.set()
        await one.completed(busy)
        await one.assert_nothing_left()
        assert len(one.guests.booted) == 1


async def kept_as_busy(one: Farm) -> bool:
    async with one.admin() as admin:
        answer = await admin.GetHost(GetHostRequest(name="host-1"))
    return any("job" in stray.reason for stray in answer.strays)
