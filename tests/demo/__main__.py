"""The demo's command line; `packaging/demo` sets the machine up and then runs this."""

import argparse
import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import libvirt

from hostler import logs
from providers.libvirt.acceleration import prove
from providers.libvirt.settings import LibvirtSettings
from tests.demo.failed import DemoFailed, told
from tests.demo.places import CACHE, CLOUD_GUEST, ROOT, TEST_GUEST, Guest, Places, kvm_proof, new_places
from tests.demo.run import Asked, Run
from tests.demo.show import Show
from tests.demo.stop import clear, end
from tests.demo.traces import settings

_ANSWER_SECONDS: Final = 20
_POOLS: Final = {"host": TEST_GUEST, "cloud": CLOUD_GUEST}
_GITHUB: Final = """\
The same with a real GitHub repository: the files in docs/examples/ say what to set, and "Point it at GitHub" in
README.md goes through it in seven steps. It takes a token with "Administration: read and write" and
"Actions: read" on the repository and a webhook secret, each in a file of its own.
"""


def main() -> None:
    """Exit codes: 0 all went well, 1 it did not, 2 wrong usage, 130 interrupted."""
    asked = _arguments()
    show = Show(json=asked.json)
    logs.configure("error")  # what the parts warn of is in their own logs
    libvirt.registerErrorHandler(lambda _opaque, _error: None, None)  # errors are raised; not printed as well
    try:
        _run(asked, show)
    except DemoFailed as error:
        show.summary(f"the demo failed: {error}", ok=False)
        sys.exit(1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        show.summary("the demo was interrupted", ok=False)
        sys.exit(130)
    show.hints(_GITHUB)


def _run(asked: argparse.Namespace, show: Show) -> None:
    began = time.monotonic()
    guest = _POOLS[asked.pool]
    CACHE.mkdir(parents=True, exist_ok=True)
    with _the_only_one() as lock:
        with told("setting up"):
            _build_guest(guest)
            started_libvirt = not _libvirt_answers()
            _checked([str(ROOT / "packaging" / "libvirt-up")])
            # An agent proves this itself; asked once here, the answer outlives the demo's folder.
            acceleration = "auto" if prove(kvm_proof()).works else "tcg"
        mode = "KVM" if acceleration == "auto" else "emulation (TCG)"
        show.note(f"set up in {time.monotonic() - began:.1f} s; machines run with {mode}")
        with told("making its folder"):
            places = new_places()
        os.write(lock, str(places.folder).encode())
        run = Run(settings(acceleration), places, show, lock)
        went_well = False
        try:
            with told("running the jobs"):
                asyncio.run(run(Asked(asked.jobs, asked.keep, guest, asked.timeout)))
            went_well = True
        finally:
            if not went_well:
                show.note(f"see the logs in {places.folder}")
            if not asked.keep:
                _clean_up(places, settings(acceleration), show, with_libvirt=started_libvirt, went_well=went_well)


def _clean_up(places: Places, network: LibvirtSettings, show: Show, *, with_libvirt: bool, went_well: bool) -> None:
    """What goes wrong here is told beside what went wrong before, and not in its place.

    Raises:
        DemoFailed: it went wrong, and nothing had before.
    """
    try:
        clear(places, network)
        if with_libvirt:
            with told("stopping libvirt"):
                _stop_libvirt()
    except DemoFailed as error:
        again = f"to do it again: .venv/bin/python -m tests.demo.stop {places.folder}"
        if went_well:
            raise DemoFailed(f"it went well, but not the cleaning up: {error}; {again}") from error
        show.note(f"nor did the cleaning up go well: {error}; {again}")
    else:
        if went_well:
            shutil.rmtree(places.folder)


@contextmanager
def _the_only_one() -> Iterator[int]:
    """Two demos would be in each other's network. The lock is held as long as a part of the demo lives."""
    with (CACHE / "demo.lock").open("a+b", buffering=0) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            folder = lock.read().decode().strip() or "FOLDER"
            raise DemoFailed(
                f"another demo is up in {folder}; to end it: .venv/bin/python -m tests.demo.stop {folder}"
            ) from None
        lock.truncate(0)
        yield lock.fileno()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="packaging/demo",
        description="Runs CI jobs in real virtual machines on this host, from webhook to the last trace gone.",
    )
    parser.add_argument("--jobs", type=_count, default=1, metavar="N", help="run N jobs at once (default 1)")
    parser.add_argument(
        "--pool",
        choices=_POOLS,
        default="host",
        help="whose machines: of an agent on this host, or of a cloud's provider (default host)",
    )
    parser.add_argument("--json", action="store_true", help="print the timeline as JSON lines")
    parser.add_argument("--keep", action="store_true", help="leave everything up, and say where")
    parser.add_argument("--timeout", type=_seconds, default=300.0, metavar="SECONDS", help="for all jobs (default 300)")
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 32:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1 to 32")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from 1 to 86400")
    return seconds


def _build_guest(guest: Guest) -> None:
    runner = ROOT / "tests" / "forge_simulator" / "runner.sh"
    build = ROOT / "packaging" / "images" / "build-test-guest"
    needs = ["--with", "curl", "--with", "install"] if guest is CLOUD_GUEST else []
    _checked([str(build), "--runner", str(runner), *needs, str(guest.path)])


def _checked(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoFailed(f"{Path(command[0]).name}: {done.stderr.strip() or done.stdout.strip()}")


def _libvirt_answers() -> bool:
    command = ["virsh", "-c", "qemu:///system", "version"]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=_ANSWER_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        raise DemoFailed(f"libvirt is there and gives no answer for {_ANSWER_SECONDS} s: restart libvirtd") from None


def _stop_libvirt() -> None:
    """Only where the demo has started it. Returns when it is gone, so that the next demo does not meet a dying one."""
    if Path("/run/systemd/system").exists():
        subprocess.run(["systemctl", "stop", "libvirtd"], check=False, capture_output=True)
        return
    for name in ("libvirtd", "virtlogd"):
        pid = Path(f"/run/{name}.pid")
        if pid.exists():
            end(int(pid.read_text()), name)


if __name__ == "__main__":
    main()
