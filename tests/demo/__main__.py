"""The demo's command line; `packaging/demo` sets the machine up and then runs this."""

import argparse
import asyncio
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import libvirt

from hostler.errors import HostlerError
from providers.libvirt.acceleration import prove
from tests.demo.farm import DemoFailed
from tests.demo.places import CACHE, ROOT, guest_image, kvm_proof, new_places
from tests.demo.run import Asked, Run
from tests.demo.show import Show
from tests.demo.traces import URI, settings

_GITHUB: Final = """\
The same with a real GitHub repository: copy docs/examples/ (coordinator.toml, agent.toml, fleet.toml), put the
repository's name, a token with 'Administration: read and write' and the webhook's secret into fleet.toml, and
follow "Point it at GitHub" in README.md.
"""


def main() -> None:
    """Exit codes: 0 all went well, 1 it did not, 2 wrong usage."""
    asked = _arguments()
    show = Show(json=asked.json)
    try:
        _run(asked, show)
    except (DemoFailed, HostlerError) as error:
        show.summary(f"the demo failed: {error}", ok=False)
        sys.exit(1)
    show.hints(_GITHUB)


def _run(asked: argparse.Namespace, show: Show) -> None:
    began = time.monotonic()
    _build_guest()
    started_libvirt = not _libvirt_answers()
    _checked([str(ROOT / "packaging" / "libvirt-up")])
    # An agent proves this itself; asked once here, the answer outlives the demo's folder.
    acceleration = "auto" if prove(kvm_proof()).works else "tcg"
    mode = "KVM" if acceleration == "auto" else "emulation (TCG)"
    show.note(f"set up in {time.monotonic() - began:.1f} s; machines run with {mode}")
    places = new_places()
    network = settings(acceleration)
    try:
        asyncio.run(Run(network, places, show)(Asked(asked.jobs, asked.keep, asked.timeout)))
        if not asked.keep:
            shutil.rmtree(places.folder)
    finally:
        if not asked.keep:
            _remove_network(network.network)
        if started_libvirt and not asked.keep:
            _stop_libvirt()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="packaging/demo",
        description="Runs CI jobs in real virtual machines on this host, from webhook to the last trace gone.",
    )
    parser.add_argument("--jobs", type=_count, default=1, metavar="N", help="run N jobs at once (default 1)")
    parser.add_argument("--json", action="store_true", help="print the timeline as JSON lines")
    parser.add_argument("--keep", action="store_true", help="leave everything up, and say where")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="for all jobs (default 300)")
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 32:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1 to 32")
    return int(text)


def _build_guest() -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    runner = ROOT / "tests" / "forge_simulator" / "runner.sh"
    _checked([str(ROOT / "packaging" / "images" / "build-test-guest"), "--runner", str(runner), str(guest_image())])


def _checked(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoFailed(f"{Path(command[0]).name}: {done.stderr.strip() or done.stdout.strip()}")


def _libvirt_answers() -> bool:
    command = ["virsh", "-c", "qemu:///system", "version"]
    return subprocess.run(command, capture_output=True, check=False, timeout=20).returncode == 0


def _remove_network(name: str) -> None:
    conn = libvirt.open(URI)
    for network in conn.listAllNetworks():
        if network.name() == name and network.isActive():
            network.destroy()
    conn.close()


def _stop_libvirt() -> None:
    """Only where the demo has started it and no machine of anybody runs."""
    if Path("/run/systemd/system").exists():
        subprocess.run(["systemctl", "stop", "libvirtd"], check=False, capture_output=True)
        return
    for name in ("libvirtd", "virtlogd"):
        pid = Path(f"/run/{name}.pid")
        if pid.exists():
            subprocess.run(["kill", pid.read_text().strip()], check=False, capture_output=True)


if __name__ == "__main__":
    main()
