"""From power-on to the started runner: our runner image beside the same Debian with cloud-init, under bare QEMU.

Both have the runner's program unpacked and are given all that they ask for at once.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from aiohttp import web

from coordinator.runner_api import scripts
from tests.bench.results import BenchmarkFailed, Result, at_least, shown
from tests.real.test_images import MAC, NETWORK_CONFIG, write_iso
from tests.runner_images import WITH_UNIT, runner_image
from tests.samples.bundle import bundle
from tests.samples.domain import forge_access, instance, pool

_STARTED: Final = "run.sh["  # what the runner's own lines on the console begin with
_TOKEN: Final = "a-token-of-the-benchmarks"
_ADDRESS: Final = "10.0.2.2"  # where QEMU's user networking has the host's loopback
_PATIENCE_SECONDS: Final = 300.0


async def run(folder: Path) -> list[Result]:
    ours = await asyncio.to_thread(runner_image, *WITH_UNIT)
    theirs = await asyncio.to_thread(runner_image, "runner-image-cloud-init-started", WITH_UNIT[1], "--cloud-init")
    async with _coordinator() as port:
        unit = await _boot(ours, _seed(folder / "unit.iso", port))
        cloud_init = await _boot(theirs, _seed(folder / "cloud-init.iso", port))
    return [
        shown("runner image, power-on to the started runner", unit, "s"),
        shown("the same Debian with cloud-init, power-on to the started runner", cloud_init, "s"),
        at_least("runner image, as fast as the same with cloud-init", cloud_init / unit, "times", 3),
    ]


def _where(port: int) -> scripts.Urls:
    return scripts.urls(f"http://{_ADDRESS}:{port}")


def _seed(path: Path, port: int) -> Path:
    """What an agent writes: either image finds its own part in it."""
    where, one = _where(port), instance()
    environment = {
        "INSTANCE_ID": one.id,
        "INSTANCE_NAME": one.name,
        "METADATA_URL": where.metadata,
        "CALLBACK_URL": where.callback,
        "TOKEN": _TOKEN,
        "ADDRESS": "10.0.2.15/24",
        "GATEWAY": _ADDRESS,
        "DNS": "10.0.2.3",
    }
    files = {
        "meta-data": f"instance-id: {one.id}\nlocal-hostname: {one.name}\n",
        "network-config": NETWORK_CONFIG,
        "user-data": scripts.user_data(one, pool(), where, _TOKEN).decode(),
        "hostler.env": "".join(f"HOSTLER_{key}='{value}'\n" for key, value in environment.items()),
    }
    write_iso(path, files)
    return path


@asynccontextmanager
async def _coordinator() -> AsyncIterator[int]:
    """The runner API, of which nothing is late; its port."""
    port = 0

    async def answer(request: web.Request) -> web.Response:
        last = request.path.rpartition("/")[2]
        if last == "install-script":
            return web.Response(
                text=scripts.install_script(instance(), pool(), forge_access(), _where(port), _TOKEN, [])
            )
        if last == "runner" and request.method == "POST":
            return web.Response(body=bundle().as_tar())
        return web.Response(text="{}")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    server = web.AppRunner(app)
    await server.setup()
    try:
        await web.TCPSite(server, "127.0.0.1", 0).start()
        port = server.addresses[0][1]
        yield port
    finally:
        await server.cleanup()


async def _boot(image: Path, seed: Path) -> float:
    """Seconds from power-on until the runner says that it is started."""
    began = time.perf_counter()
    machine = await asyncio.create_subprocess_exec(
        *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "2048", "-no-reboot"),
        *("-nodefaults", "-display", "none", "-serial", "stdio", "-nic", f"user,model=virtio,mac={MAC}"),
        *("-drive", f"file={image},if=virtio,format=qcow2,snapshot=on"),
        *("-drive", f"file={seed},if=virtio,format=raw,readonly=on"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert machine.stdout is not None
    told: list[str] = []
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            async for line in machine.stdout:
                told.append(line.decode(errors="replace").rstrip())
                if _STARTED in told[-1]:
                    return time.perf_counter() - began
    except TimeoutError:
        told.append(f"(not done after {_PATIENCE_SECONDS:g} s)")
    finally:
        if machine.returncode is None:
            machine.kill()
        await machine.wait()
    raise BenchmarkFailed("\n".join(told[-20:]))
