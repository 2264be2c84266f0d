"""A guest's boot through the agent beside the same guest under bare QEMU, each until its first program speaks."""

import asyncio
import statistics
import subprocess
import time
from pathlib import Path
from typing import Final

from tests.bench.host import libvirt_tables, remove_network, start_libvirt
from tests.bench.host_agent import Driver, HostAgent, host_agent
from tests.bench.processes import ROOT
from tests.bench.results import BenchmarkFailed, Result, at_most, shown

_ROUNDS: Final = 5
_MEMORY_MIB: Final = 256
_SPEAKS: Final = b"init started"
_LOOK_SECONDS: Final = 0.005
_PATIENCE_SECONDS: Final = 60.0


async def run(folder: Path) -> list[Result]:
    await asyncio.to_thread(start_libvirt)
    image = folder / "guest.qcow2"
    build = ROOT / "packaging" / "images" / "build-test-guest"
    runner = ROOT / "tests" / "forge_simulator" / "runner.sh"
    await asyncio.to_thread(subprocess.run, [str(build), "--runner", str(runner), str(image)], check=True, timeout=60)
    driver = Driver("libvirt", "guest", libvirt_tables("guest", image), _MEMORY_MIB)
    try:
        async with host_agent(folder, driver) as agent:
            pairs = [(await _bare(folder, image), await _by_agent(agent)) for _ in range(1 + _ROUNDS)][1:]
    finally:
        await asyncio.to_thread(remove_network)
    bare, by_agent = (statistics.median(values) for values in zip(*pairs, strict=True))
    return [
        shown("guest, bare QEMU to its first word, p50", bare * 1000, "ms"),
        shown("guest, CreateInstance to its first word, p50", by_agent * 1000, "ms"),
        at_most("guest, the agent's part of that, p50", (by_agent - bare) * 1000, "ms", 500),
    ]


async def _bare(folder: Path, image: Path) -> float:
    """As libvirt would start it, so far as that is of weight: the disk is there already, as after the agent's part."""
    disk, console = folder / "bare.qcow2", folder / "bare.log"
    disk.unlink(missing_ok=True)
    console.write_bytes(b"")
    make = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image), "-F", "qcow2", str(disk), "1G"]
    await asyncio.to_thread(subprocess.run, make, check=True)
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", str(_MEMORY_MIB)),
        *("-drive", f"file={disk},if=virtio,format=qcow2,cache=unsafe", "-serial", f"file:{console}"),
        *("-device", "virtio-rng-pci"),
        stdin=asyncio.subprocess.DEVNULL,
    )
    try:
        return await _until_it_speaks(console) - began
    finally:
        process.kill()
        await process.wait()


async def _by_agent(agent: HostAgent) -> float:
    began = time.perf_counter()
    instance_id, _ = await agent.create()
    try:
        return await _until_it_speaks(agent.data / "instances" / instance_id / "console.log") - began
    finally:
        await agent.delete(instance_id)


async def _until_it_speaks(console: Path) -> float:
    deadline = time.perf_counter() + _PATIENCE_SECONDS
    while _SPEAKS not in await asyncio.to_thread(console.read_bytes):
        if time.perf_counter() > deadline:
            raise BenchmarkFailed(f"the guest is silent after {_PATIENCE_SECONDS:g} s; see {console}")
        await asyncio.sleep(_LOOK_SECONDS)
    return time.perf_counter()
