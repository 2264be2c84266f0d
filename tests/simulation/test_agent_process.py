"""The agent as a process of its own: killed, restarted, stopped by a signal, checked."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from protos.hostler.v1 import fleet_pb2 as pb
from tests.simulation.agent_harness import PlayedCoordinator, new_id


def write_config(folder: Path, port: int, *, extra: str = "") -> Path:
    path = folder / "agent.toml"
    path.write_text(
        f"""
data_dir = "{folder / "data"}"
[coordinator]
address = "127.0.0.1:{port}"
[capacity]
reserved_memory_mib = 0
reserved_disk_gib = 0
low_disk_gib = 0
low_memory_mib = 0
{extra or "[simulated]"}
"""
    )
    return path


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "agent.main",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def agent_process(config: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await start("--config", str(config))
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_killed_agent_adopts_what_it_left(tmp_path: Path) -> None:
    async with PlayedCoordinator() as coordinator:
        config = write_config(tmp_path, coordinator.port)
        async with agent_process(config) as process:
            await coordinator.hears_hello(1)
            coordinator.create(one := new_id(), generation=3)
            await coordinator.hears(one, "started")
            process.kill()
        async with agent_process(config):
            hello = await coordinator.hears_hello(2)
            (machine,) = hello.inventory.machines
            assert (machine.instance_id, machine.generation) == (one, 3)
            assert machine.state == pb.MACHINE_STATE_RUNNING
            assert [reached.phase for reached in machine.phases] == [
                pb.PHASE_ACCEPTED,
                pb.PHASE_DISK,
                pb.PHASE_STARTED,
            ]
            coordinator.create(one, generation=3)
            await coordinator.hears(one, "started", times=2)
            coordinator.delete(one, generation=4)
            await coordinator.hears(one, "deleted")


async def test_a_create_cut_off_by_a_kill_is_told_as_creating_and_made_when_asked_again(tmp_path: Path) -> None:
    slow, quick = "[simulated]\ndisk_seconds = 600", "[simulated]\ndisk_seconds = 0"
    async with PlayedCoordinator() as coordinator:
        async with agent_process(write_config(tmp_path, coordinator.port, extra=slow)) as process:
            await coordinator.hears_hello(1)
            coordinator.create(one := new_id())
            await coordinator.hears(one, "accepted")
            process.kill()
        async with agent_process(write_config(tmp_path, coordinator.port, extra=quick)):
            hello = await coordinator.hears_hello(2)
            assert [machine.state for machine in hello.inventory.machines] == [pb.MACHINE_STATE_CREATING]
            coordinator.create(one)
            await coordinator.hears(one, "started")
            assert coordinator.phases(one) == ["accepted", "accepted", "disk", "started"]


async def test_a_delete_begun_before_a_kill_is_finished_without_being_asked_again(tmp_path: Path) -> None:
    async with PlayedCoordinator() as coordinator:
        config = write_config(tmp_path, coordinator.port)
        async with agent_process(config) as process:
            await coordinator.hears_hello(1)
            coordinator.create(one := new_id())
            await coordinator.hears(one, "started")
            kept = (tmp_path / "data/instances" / f"{one}.json").read_bytes()
            coordinator.delete(one)
            await coordinator.hears(one, "deleted")
            process.kill()
        (tmp_path / "data/instances" / f"{one}.json").write_bytes(kept)  # as if the kill had come before the destroying
        async with agent_process(config):
            await coordinator.hears(one, "deleted", times=2)
        assert list((tmp_path / "data/instances").iterdir()) == []


async def test_sigterm_ends_it_well_and_leaves_its_machines(tmp_path: Path) -> None:
    async with PlayedCoordinator() as coordinator:
        async with agent_process(write_config(tmp_path, coordinator.port)) as process:
            await coordinator.hears_hello(1)
            coordinator.create(one := new_id())
            await coordinator.hears(one, "started")
            process.send_signal(signal.SIGTERM)
            _, errors = await process.communicate()
        assert process.returncode == 0
        assert coordinator.streams_closed_by_agent == 1
        assert b"secret-token" not in errors
    assert [path.stem for path in (tmp_path / "data/instances").iterdir()] == [one]


async def test_sigterm_ends_it_soon_though_the_coordinator_never_answers(tmp_path: Path) -> None:
    dialled = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled.set()
        while await reader.read(4096):
            continue
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with agent_process(write_config(tmp_path, port)) as process:
            await dialled.wait()
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                await process.communicate()
        assert process.returncode == 0


async def test_two_agents_do_not_share_a_data_dir(tmp_path: Path) -> None:
    async with PlayedCoordinator() as coordinator:
        config = write_config(tmp_path, coordinator.port)
        async with agent_process(config):
            await coordinator.hears_hello(1)
            second = await start("--config", str(config))
            _, errors = await second.communicate()
    assert second.returncode == 1
    assert b"in use by another agent" in errors


async def test_check_says_good_and_makes_nothing(tmp_path: Path) -> None:
    process = await start("--config", str(write_config(tmp_path, 9998)), "--check")
    said, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert said.endswith(b"good\n")
    assert not (tmp_path / "data").exists()


async def test_check_names_file_key_and_what_is_allowed(tmp_path: Path) -> None:
    config = write_config(tmp_path, 9998, extra="[simulated]\nimage = 1")
    process = await start("--config", str(config), "--check")
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.decode() == (
        f"hostler-agent: {config}: key 'simulated.image': unknown; "
        "allowed here: images, disk_seconds, start_seconds, devices\n"
    )
