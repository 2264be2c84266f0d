"""The stand-in runner under busybox and under Debian's own shell, against the simulator over real HTTP."""

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from tests.forge_simulator import ForgeSimulator
from tests.forge_simulator.jitconfig import RUNNER_SCRIPT

REPOSITORY = "acme/widgets"
LABELS = ["self-hosted", "linux"]


class Bench:
    """A forge with one repository, and runners started from its JIT configurations."""

    def __init__(self, forge: ForgeSimulator, client: aiohttp.ClientSession, where: Path, shell: list[str], path: str):
        self.forge = forge
        self.client = client
        self.where = where
        self.shell = shell
        self.path = path
        self.token = forge.add_token(REPOSITORY).value
        self.processes: list[asyncio.subprocess.Process] = []

    async def jitconfig(self, name: str = "runner-1") -> str:
        async with self.client.post(
            f"{self.forge.api_url}/repos/{REPOSITORY}/actions/runners/generate-jitconfig",
            json={"name": name, "runner_group_id": 1, "labels": LABELS},
            headers={"Authorization": f"Bearer {self.token}"},
        ) as response:
            assert response.status == 201
            encoded: str = (await response.json())["encoded_jit_config"]
            return encoded

    async def run(self, *arguments: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *self.shell,
            str(RUNNER_SCRIPT),
            *arguments,
            cwd=self.where,
            env={"PATH": self.path, "RUNNER_SHIP_SECONDS": "0.2"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self.processes.append(process)
        return process

    def end_all(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.kill()


@pytest.fixture(params=["busybox alone", "debian with curl", "debian with wget"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    tools = tmp_path / "tools"
    tools.mkdir()
    busybox = shutil.which("busybox")
    assert busybox, "install busybox-static: the runner is tested with nothing but it"
    if request.param == "busybox alone":
        process = await asyncio.create_subprocess_exec(busybox, "--install", "-s", str(tools))
        assert await process.wait() == 0
        shell, path = [busybox, "sh"], str(tools)
    else:
        kept = {"debian with curl": "curl", "debian with wget": "wget"}[request.param]
        names = [
            "sh",
            "tr",
            "sed",
            "base64",
            "sleep",
            "cat",
            "rm",
            "mkdir",
            "mktemp",
            "setsid",
            "tail",
            "wc",
            "timeout",
        ]
        for name in [*names, "grep", kept]:
            if (found := shutil.which(name, path="/usr/bin:/bin")) is None:
                pytest.skip(f"{name} is not installed")
            (tools / name).symlink_to(found)
        shell, path = ["/bin/dash"], str(tools)
    where = tmp_path / "runner"
    where.mkdir()
    async with ForgeSimulator(runner_timeout=timedelta(seconds=10)) as forge, aiohttp.ClientSession() as client:
        forge.add_repository(REPOSITORY)
        bench = Bench(forge, client, where, shell, path)
        yield bench
        bench.end_all()


def _runs(pid: str) -> bool:
    """Say whether a process is alive; a zombie that nobody has collected yet is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def output_of(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(40):
        stdout, _ = await process.communicate()
    return stdout.decode()


async def test_a_job_runs_and_its_log_arrives(bench: Bench) -> None:
    script = 'echo "hello from $RUNNER_NAME"; echo to stderr >&2; pwd; sleep 1; printf "no newline, zero \\000 byte"\n'
    job = bench.forge.queue_job(REPOSITORY, ["LINUX"], script)
    process = await bench.run("--jitconfig", await bench.jitconfig())

    output = await output_of(process)
    done = bench.forge.job(job.id)

    assert process.returncode == 0, output
    assert (done.status, done.conclusion, done.runner_name) == ("completed", "success", "runner-1")
    expected = f"hello from runner-1\nto stderr\n{bench.where}/_work\nno newline, zero ? byte"
    assert bench.forge.log(job.id) == expected
    assert expected in output
    assert bench.forge.runners(REPOSITORY) == []


async def test_unpacked_files_are_what_the_forge_packed_and_private(bench: Bench) -> None:
    bench.forge.queue_job(REPOSITORY, LABELS, "true")
    encoded = await bench.jitconfig()

    await output_of(await bench.run("--jitconfig", encoded))

    files = json.loads(base64.b64decode(encoded))
    assert set(files) == {".runner", ".credentials", ".credentials_rsaparams"}
    for name, content in files.items():
        assert (bench.where / name).read_bytes() == base64.b64decode(content)
        assert (bench.where / name).stat().st_mode & 0o777 == 0o600


async def test_files_written_by_others_are_enough(bench: Bench) -> None:
    """The coordinator hands the files out one by one; real ones are indented and may escape characters."""
    job = bench.forge.queue_job(REPOSITORY, LABELS, "echo ran")
    for name, content in json.loads(base64.b64decode(await bench.jitconfig())).items():
        text = json.dumps(json.loads(base64.b64decode(content)), indent=2).replace("/", "\\/")
        (bench.where / name).write_text(text)

    process = await bench.run()
    await output_of(process)

    assert process.returncode == 0
    assert bench.forge.log(job.id) == "ran\n"


async def test_a_failing_job_fails_and_the_runner_does_not(bench: Bench) -> None:
    job = bench.forge.queue_job(REPOSITORY, LABELS, "echo before\nfalse\necho never")
    process = await bench.run("--jitconfig", await bench.jitconfig())
    await output_of(process)

    assert process.returncode == 0
    assert bench.forge.job(job.id).conclusion == "failure"
    assert bench.forge.log(job.id) == "before\n"


async def test_a_job_that_comes_later_is_taken_from_the_poll(bench: Bench) -> None:
    process = await bench.run("--jitconfig", await bench.jitconfig())
    assert process.stdout is not None
    while b"Listening" not in await asyncio.wait_for(process.stdout.readline(), 20):
        pass
    job = bench.forge.queue_job(REPOSITORY, LABELS, "echo late")
    await bench.forge.wait_completed(job.id)
    await output_of(process)

    assert bench.forge.log(job.id) == "late\n"
    assert process.returncode == 0


async def test_a_cancelled_job_is_ended_on_the_runner(bench: Bench) -> None:
    job = bench.forge.queue_job(REPOSITORY, LABELS, "sleep 300 &\necho begun $$ $!\nsleep 300")
    process = await bench.run("--jitconfig", await bench.jitconfig())
    await bench.forge.wait_until(lambda: "begun" in bench.forge.log(job.id))

    pids = bench.forge.log(job.id).split()[1:]
    assert [pid for pid in pids if _runs(pid)] == pids

    bench.forge.cancel_job(job.id)
    output = await output_of(process)

    assert process.returncode == 1
    assert "does not know this runner or its job any more" in output
    async with asyncio.timeout(20):  # what is killed ends when the kernel comes to it
        while any(map(_runs, pids)):
            await asyncio.sleep(0.01)


async def test_a_terminated_runner_reports_its_job_as_failed(bench: Bench) -> None:
    job = bench.forge.queue_job(REPOSITORY, LABELS, "echo begun; sleep 30")
    process = await bench.run("--jitconfig", await bench.jitconfig())
    await bench.forge.wait_until(lambda: "begun" in bench.forge.log(job.id))

    process.terminate()
    await output_of(process)

    assert process.returncode == 1
    assert bench.forge.job(job.id).conclusion == "failure"


async def test_exit_codes_for_what_goes_wrong_before_a_job(bench: Bench) -> None:
    nothing_there = await bench.run()
    assert "no .runner and .credentials here" in await output_of(nothing_there)
    assert nothing_there.returncode == 1

    garbage = await bench.run("--jitconfig", base64.b64encode(b"{}").decode())
    assert "holds no usable .runner" in await output_of(garbage)
    assert garbage.returncode == 1

    encoded = await bench.jitconfig()
    first = await bench.run("--jitconfig", encoded)
    assert first.stdout is not None
    while b"Listening" not in await asyncio.wait_for(first.stdout.readline(), 20):
        pass
    second = await bench.run()
    await output_of(second)
    assert second.returncode == 5

    [runner] = bench.forge.runners(REPOSITORY)
    async with bench.client.delete(
        f"{bench.forge.api_url}/repos/{REPOSITORY}/actions/runners/{runner.id}",
        headers={"Authorization": f"Bearer {bench.token}"},
    ) as response:
        assert response.status == 204
    await output_of(first)
    assert first.returncode == 1

    await bench.forge.stop()
    unreachable = await bench.run()
    await output_of(unreachable)
    assert unreachable.returncode == 2
