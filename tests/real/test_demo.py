"""`packaging/demo` as people and programs run it: a process, its output, its exit code and what it leaves."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from providers.isolation.rules import port_prefix
from tests.demo.places import CACHE
from tests.demo.show import SHOWN
from tests.demo.traces import settings
from tests.real.boot_sectors import boot_sector
from tests.real.conftest import ROOT

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("libvirt_up")]

JOB = ["webhook", "committed", "job running", "completed"]
MACHINE = ["planned", "dispatched", "disk", "started", "booted", "runner online", "job running", "destroyed"]
IN_ORDER = [
    "webhook", "committed", "planned", "dispatched", "disk", "started", "booted", "runner online", "job running",
    "completed", "destroyed",
]  # fmt: skip
FOLDERS = Path("/var/tmp")


class Ran(msgspec.Struct, frozen=True):
    exit_code: int
    output: str
    errors: str
    seconds: float

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line, type=dict[str, Any]) for line in self.output.splitlines()]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]

    @property
    def summary(self) -> dict[str, Any]:
        last = self.lines[-1]
        assert last["event"] == "summary", self
        return last


def demo(*arguments: str, environment: dict[str, str] | None = None) -> Ran:
    began = time.monotonic()
    done = subprocess.run(
        [ROOT / "packaging" / "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=os.environ | (environment or {}),
    )
    print(done.stdout, done.stderr, sep="\n")
    return Ran(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def traces() -> list[str]:
    """Everything on this machine that is the demo's, found without the demo's own means."""
    found = [f"folder {path}" for path in FOLDERS.glob("hostler-demo-*")]
    found += [f"domain {name}" for name in output("virsh", "list", "--all", "--name").split()]
    found += [f"network {name}" for name in output("virsh", "net-list", "--all", "--name").split() if "demo" in name]
    signs = ("10.217.77.", "hostler-demo", port_prefix(settings("tcg").isolated))
    for kind, command in (("interface", ("ip", "-oneline", "link")), ("rule", ("nft", "list", "ruleset"))):
        lines = output(*command).splitlines()
        found += [f"{kind} {line.strip()}" for line in lines if any(sign in line for sign in signs)]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "hostler-demo" in words or "qemu-system" in words:
            found.append(f"process {process.name} {words[:200]}")
    return found


def machine_logs() -> set[str]:
    return {path.name for path in Path("/var/log/libvirt/qemu").iterdir() if path.name.startswith("hostler-")}


@pytest.fixture(autouse=True)
def nothing_else_runs() -> Iterator[None]:
    """What a failed demo keeps would fail every later test too."""
    assert traces() == []
    yield
    for folder in FOLDERS.glob("hostler-demo-*"):
        subprocess.run([ROOT / ".venv/bin/python", "-m", "tests.demo.stop", folder], cwd=ROOT, check=True)


def test_a_job_goes_its_whole_way_and_nothing_is_left() -> None:
    logs = machine_logs()

    ran = demo("--json")

    assert ran.exit_code == 0
    assert (ran.summary["ok"], ran.summary["jobs"]) == (True, 1)
    (job,) = ran.of("job")
    assert job["conclusion"] == "success"
    check_steps(job)
    assert [step for step in job["steps"] if step in SHOWN] == IN_ORDER  # no other machine could have taken it
    shown = [line["step"] for line in ran.of("timeline")]
    assert [step for step in IN_ORDER if shown.count(step) != 1] == []
    assert {line["job"] for line in ran.of("timeline")} <= {job["job"], ""}
    assert traces() == []
    assert machine_logs() == logs


def test_a_job_goes_its_whole_way_in_a_cloud_pool_and_nothing_is_left() -> None:
    logs = machine_logs()

    ran = demo("--pool", "cloud", "--json")

    assert ran.exit_code == 0
    assert (ran.summary["ok"], ran.summary["jobs"]) == (True, 1)
    (job,) = ran.of("job")
    assert job["conclusion"] == "success"
    in_order = [step for step in IN_ORDER if step != "disk"]
    assert [step for step in job["steps"] if step in SHOWN] == in_order
    assert job["steps"]["booted"] - job["steps"]["started"] > 300
    (dispatched,) = [line for line in ran.of("timeline") if line["step"] == "dispatched"]
    assert dispatched["detail"] == "cloud"
    assert traces() == []
    assert machine_logs() == logs  # libvirt had no part in it


def check_steps(job: dict[str, Any]) -> None:
    """All steps are there, each with its milliseconds, those of the job and those of the machine in their order.

    Of jobs at once each is taken by any of their machines: one planned before the job was committed may be its.
    """
    steps: dict[str, float] = job["steps"]
    assert set(IN_ORDER) == set(JOB) | set(MACHINE) == SHOWN
    assert sorted(step for step in steps if step in SHOWN) == sorted(IN_ORDER)
    for order in (JOB, MACHINE):
        assert [step for step in steps if step in order] == order
        assert [steps[step] for step in order] == sorted(steps[step] for step in order)
    assert steps["webhook"] == 0
    # A machine under emulation needs a second to boot at least: less would be no machine.
    assert steps["booted"] - steps["started"] > 300


def test_four_jobs_run_at_once_in_four_machines_set_up_within_seconds() -> None:
    before = datetime.now().astimezone()

    ran = demo("--jobs", "4", "--json")

    assert ran.exit_code == 0
    jobs = ran.of("job")
    assert [job["number"] for job in jobs] == [1, 2, 3, 4]
    for job in jobs:
        check_steps(job)
    assert len({job["instance"] for job in jobs}) == len({job["runner"] for job in jobs}) == 4
    at = {
        (line["job"] or line["instance"], line["step"]): datetime.fromisoformat(line["at"])
        for line in ran.of("timeline")
    }
    last_started = max(at[job["instance"], "started"] for job in jobs)
    first_completed = min(at[job["job"], "completed"] for job in jobs)
    assert last_started < first_completed
    set_up = (min(at.values()) - before).total_seconds()
    print(f"set-up {set_up:.1f} s, all {ran.seconds:.1f} s")
    assert set_up < 20
    assert traces() == []


def test_people_see_lines_with_jobs_and_machines_named() -> None:
    ran = demo()

    assert ran.exit_code == 0
    lines = ran.output.splitlines()
    (running,) = [line for line in lines if re.search(r"\d ms  job running ", line)]
    machine = re.fullmatch(r" +\d+\.\d ms  job running +job 1 +(hostler-[0-9a-f]+)", running)
    assert machine, running
    assert any("booted" in line and machine[1] in line for line in lines)
    assert "1 job done, each in a machine of its own, nothing left behind" in ran.output
    assert "real GitHub repository" in ran.output


def test_what_is_kept_can_be_looked_at_and_stopped_as_it_says() -> None:
    ran = demo("--json", "--keep")

    assert ran.exit_code == 0
    told = re.search(r"kept: .* in (\S+)\n +look: +(.*)\n +stop: +(.*)", ran.errors)
    assert told, ran.errors
    folder, look, stop = Path(told[1]), told[2].split(), told[3].split()
    assert (folder / "coordinator.log").exists()
    assert folder.stat().st_mode & 0o077 == 0o011
    secrets = [*folder.glob("*.toml"), *folder.glob("forge.json"), folder / "token", folder / "webhook-secret"]
    assert [path.name for path in (*secrets, folder / "coordinator") if path.stat().st_mode & 0o077] == []
    status = subprocess.run(look, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.search(r"demo-host +yes", status)
    second = demo("--json")
    assert second.exit_code == 1
    assert f"another demo is up in {folder}" in second.summary["text"]

    subprocess.run(stop, cwd=ROOT, check=True)

    assert traces() == []


@pytest.mark.parametrize("pool", ["host", "cloud"])
def test_interrupted_it_clears_up(tmp_path: Path, pool: str) -> None:
    command = [str(ROOT / "packaging" / "demo"), "--json", "--pool", pool]
    with (tmp_path / "output").open("w") as file:
        running = subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while '"started"' not in (tmp_path / "output").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 130
    finally:
        running.kill()
        running.communicate()
    assert [trace for trace in traces() if not trace.startswith("folder")] == []


@pytest.mark.parametrize(
    "wrong", [["--jobs", "0"], ["--jobs", "many"], ["--timeout", "-1"], ["--pool", "mud"], ["--nonsense"], ["job"]]
)
def test_wrong_usage_is_said(wrong: list[str]) -> None:
    ran = demo(*wrong)

    assert ran.exit_code == 2
    assert "usage: packaging/demo" in ran.errors
    assert wrong[0] in ran.errors
    assert ran.output == ""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache whose guest counts as built from the newest inputs, whatever is put there."""
    made = tmp_path / "cache"
    made.mkdir()
    if not (CACHE / "test-guest.qcow2.inputs").exists():
        demo()
    for name in ("test-guest.qcow2", "test-guest.qcow2.inputs", "kvm-proof.json"):
        if (CACHE / name).exists():
            shutil.copy(CACHE / name, made / name)
    return made


def test_a_guest_that_never_calls_back_fails_the_demo(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "halts.img").write_bytes(boot_sector("halts"))
    output("qemu-img", "convert", "-O", "qcow2", str(tmp_path / "halts.img"), str(cache / "test-guest.qcow2"))

    ran = demo("--json", "--timeout", "6", environment={"HOSTLER_CACHE": str(cache)})

    assert ran.exit_code == 1
    assert (ran.summary["ok"], ran.summary["text"]) == (False, "the demo failed: not done after 6 s")
    steps = [line["step"] for line in ran.of("timeline")]
    assert "started" in steps
    assert "booted" not in steps
    check_only_logs_are_left(ran, "guest says hello")


def test_a_job_that_fails_fails_the_demo(cache: Path, tmp_path: Path) -> None:
    runner = tmp_path / "runner.sh"
    text = (ROOT / "tests" / "forge_simulator" / "runner.sh").read_text()
    runner.write_text(text.replace('exec sh -e "$2"', "exit 3"))
    assert runner.read_text() != text
    image = tmp_path / "failing.qcow2"
    output(str(ROOT / "packaging" / "images" / "build-test-guest"), "--runner", str(runner), str(image))
    image.rename(cache / "test-guest.qcow2")

    ran = demo("--json", environment={"HOSTLER_CACHE": str(cache)})

    assert ran.exit_code == 1
    assert (ran.summary["ok"], ran.summary["text"]) == (False, "the demo failed: job 1 ended with 'failure'")
    check_only_logs_are_left(ran)


def check_only_logs_are_left(ran: Ran, *on_console: str) -> None:
    (folder,) = FOLDERS.glob("hostler-demo-*")
    assert f"see the logs in {folder}" in ran.errors
    assert traces() == [f"folder {folder}"]
    assert not list((folder / "agent" / "instances").iterdir())
    consoles = "".join(path.read_text(errors="replace") for path in folder.glob("console-*"))
    assert [text for text in on_console if text not in consoles] == []
