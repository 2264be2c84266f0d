"""Ending a demo that was kept, or one that died: `python -m tests.demo.stop FOLDER`. Leaves nothing of it."""

import argparse
import asyncio
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import libvirt
import msgspec

from providers.isolation import Firewall
from providers.libvirt import LibvirtProvider, LibvirtSettings
from tests.demo.configs import CLOUD
from tests.demo.failed import DemoFailed, told
from tests.demo.places import Places
from tests.demo.traces import URI, settings

_GRACE_MILLISECONDS: Final = 15_000
_CONSOLE_BYTES: Final = 1 << 20


def main() -> None:
    """Exit codes: 0 nothing is left, 1 something could not be removed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo.stop", description=__doc__)
    parser.add_argument("folder", type=Path, help="what the demo said that it keeps")
    folder: Path = parser.parse_args().folder
    if not folder.name.startswith("hostler-demo-") or not folder.is_dir():
        parser.error(f"{folder} is not the folder of a demo")
    places = Places(folder.resolve())
    try:
        with told("ending its parts"):
            for pid in places.remembered():
                end(pid, str(places.folder))
        clear(places, settings("tcg"))
    except DemoFailed as error:
        sys.stderr.write(f"the demo in {folder} could not be ended: {error}\n")
        sys.exit(1)
    shutil.rmtree(places.folder)


def clear(places: Places, network: LibvirtSettings) -> None:
    """Remove the machines and the network of a demo whose parts have ended; consoles are kept beside the logs.

    Raises:
        DemoFailed: something resists.
    """
    with told("removing its machines"):
        asyncio.run(_destroy_machines(places, network))
        _remove_from_cloud(places)
    with told("removing its network"):
        conn = libvirt.open(URI)
        for found in conn.listAllNetworks():
            if found.name() == network.network and found.isActive():
                found.destroy()
        conn.close()
        Firewall(network.isolated).remove()


async def _destroy_machines(places: Places, network: LibvirtSettings) -> None:
    instances = places.agent_data / "instances"
    if not instances.exists():
        return
    # Nothing is started here, so nothing has to be found out about KVM.
    provider = LibvirtProvider(msgspec.structs.replace(network, acceleration="tcg"), [], instances)
    await provider.open(lambda _: None)
    try:
        for machine in await provider.inventory():
            console, _ = await provider.console(machine.instance_id, _CONSOLE_BYTES)
            (places.folder / f"console-{machine.name}.log").write_bytes(console)
            await provider.delete(machine.instance_id)
    finally:
        await provider.close()


def _remove_from_cloud(places: Places) -> None:
    """As their controller would; each says itself which that is."""
    for machine in places.machines.glob("*/"):
        if (machine / "console.log").exists():
            shutil.copy(machine / "console.log", places.folder / f"console-{machine.name}.log")
    for controller in {path.read_text() for path in places.machines.glob("*/controller")}:
        asked = {
            "GARM_COMMAND": "RemoveAllInstances",
            "GARM_CONTROLLER_ID": controller,
            "GARM_PROVIDER_CONFIG_FILE": str(places.cloud_config),
        }
        subprocess.run([CLOUD], check=True, env=asked, timeout=_GRACE_MILLISECONDS / 1000)


def end(pid: int, sign: str) -> None:
    """End a process whose command line holds `sign` (a number may be another's by now), and wait until it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if sign not in Path(f"/proc/{pid}/cmdline").read_text():
            return
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        if not waiting.poll(_GRACE_MILLISECONDS):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            waiting.poll()
    finally:
        os.close(handle)


if __name__ == "__main__":
    main()
