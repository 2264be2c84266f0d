"""A job in the image for real jobs: the unit of the image makes the machine a runner, or cloud-init by our script."""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
import msgspec
import pytest

from protos.hostler.v1 import admin_pb2
from protos.hostler.v1.admin_pb2_grpc import AdminStub
from tests.demo.farm import Farm
from tests.demo.forge import Control
from tests.demo.places import Guest, Places
from tests.demo.run import bring_up_network
from tests.demo.show import webhook_at
from tests.real import machines
from tests.real.conftest import SETTINGS

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

SCRIPT: Final = """
echo "job of $(id -un) in groups $(id -Gn)"
docker version --format 'docker server {{.Server.Version}}'
tar -ch -C / bin/echo $(ldd /bin/echo | grep -o '/[^ ]*' | cut -c2-) | docker import - of-this-machine >/dev/null
docker run --rm of-this-machine /bin/echo a container ran
sudo -n id -un | sed 's/^/sudo is /'
echo "runner's folder: $(ls -A .. | tr '\\n' ' ')"
echo "runner's files: $(stat -c '%n %U %a' ../.runner ../.credentials | tr '\\n' ';')"
systemctl show hostler-runner --property=User,MainPID
echo "root of $(df --output=size -BG / | tail -n 1 | tr -dc 0-9) GiB"
sleep 5
"""
SECONDS: Final = 300


@pytest.fixture
async def farm(libvirt_up: None, image: Path, tmp_path: Path) -> AsyncIterator[Farm]:  # noqa: ARG001
    places = Places(tmp_path / "farm")
    places.folder.mkdir()
    await asyncio.to_thread(bring_up_network, SETTINGS)
    one = Farm(places, SETTINGS, guest=Guest("debian-12", image, vcpus=2, memory_mib=2048, disk_gib=8))
    try:
        await one.start()
        yield one
    finally:
        await one.stop()
        await asyncio.to_thread(machines.destroy, places.agent_data)
        for part in ("forge", "coordinator", "agent"):
            print(f"--- {part}", places.log(part).read_text() if places.log(part).exists() else "", sep="\n")


@pytest.fixture
def image(request: pytest.FixtureRequest) -> Path:
    """By the name of its fixture."""
    found: Path = request.getfixturevalue(request.param)
    return found


async def token_of_machine(farm: Farm) -> str:
    """The machine's token, as its seed tells it; waits until there is one."""
    while True:
        for seed in (farm.places.agent_data / "instances").glob("*/seed.iso"):
            found = re.search(rb"HOSTLER_TOKEN='([^']+)'", seed.read_bytes())
            if found:
                return found[1].decode()
        await asyncio.sleep(0.2)


async def until(forge: Control, job: int, status: str) -> dict[str, Any]:
    while (told := await forge.job(job))["status"] != status:
        await asyncio.sleep(0.2)
    return told


async def until_powered_off(farm: Farm) -> None:
    while machines.emulators(farm.places.agent_data):
        await asyncio.sleep(0.2)


async def newest_console(farm: Farm) -> str:
    texts = [path.read_text(errors="replace") for path in farm.places.agent_data.glob("instances/*/console.log")]
    return "".join(texts)


def system_info(farm: Farm) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(farm.places.folder / "coordinator" / "hostler.db")) as database:
        return list(database.execute("SELECT os_name, os_version FROM instances"))


class Ran(msgspec.Struct, frozen=True):
    log: str
    told: admin_pb2.Job
    console: str
    token: str


async def run_job(farm: Farm) -> Ran:
    """Queue a job and see it through, until the machine has gone off by itself and nothing of it is left."""
    async with aiohttp.ClientSession() as session, grpc.aio.insecure_channel(farm.grpc) as channel:
        forge, admin = Control(session, farm.state()), AdminStub(channel)
        job = await forge.queue_script(SCRIPT)
        try:
            async with asyncio.timeout(SECONDS):
                token = await token_of_machine(farm)
                await until(forge, job, "in_progress")
                # Nobody is left who could destroy the machine: it has to go off by itself.
                await farm.kill("agent")
                done = await until(forge, job, "completed")
                await until_powered_off(farm)
                await farm.start_agent()
                while (await admin.FleetStatus(admin_pb2.FleetStatusRequest())).instances:
                    await asyncio.sleep(0.2)
        except TimeoutError:
            pytest.fail(f"not done after {SECONDS} s; the machine's console:\n{await newest_console(farm)}")
        told = await admin.GetJob(admin_pb2.GetJobRequest(id=str(job)))
        console = await admin.GetConsole(admin_pb2.GetConsoleRequest(instance=told.instance_id))

    began = webhook_at(told)
    for entry in told.timeline:
        print(f"{(entry.at.ToDatetime() - began).total_seconds():8.2f} s  {entry.step}  {entry.detail}")
    text = console.data.decode(errors="replace")
    print(text)
    assert done["conclusion"] == "success", done["log"]
    return Ran(done["log"], told, text, token)


@pytest.mark.parametrize("image", ["cloud_init_image"], indirect=True)
async def test_the_runner_is_downloaded_checked_and_runs_its_job_as_an_ordinary_user(farm: Farm) -> None:
    ran = await run_job(farm)

    check(farm, ran, booted="downloading the runner")
    assert "Listening for Jobs" in ran.console
    assert "Invalid cloud-config" not in ran.console


@pytest.mark.parametrize("image", ["unit_image"], indirect=True)
async def test_the_images_own_unit_starts_the_runner_that_came_with_it(farm: Farm) -> None:
    ran = await run_job(farm)

    check(farm, ran, booted="booted")
    assert "hostler: " in ran.console
    assert re.search(r"^root of \d+ GiB", ran.log, re.MULTILINE)
    assert int(re.findall(r"^root of (\d+) GiB", ran.log, re.MULTILINE)[0]) >= 7  # of the 8 that the flavor gives


def check(farm: Farm, ran: Ran, booted: str) -> None:
    """What holds of a job whatever started its runner. `booted`: what its machine said first."""
    log = ran.log
    assert re.search(r"^job of runner in groups .*\bdocker\b", log, re.MULTILINE)
    assert re.search(r"^docker server \d+\.", log, re.MULTILINE)
    assert "a container ran" in log.splitlines()
    assert "sudo is root" in log
    assert "../.runner runner 600;../.credentials runner 600;" in log
    assert re.search(r"^runner's folder: .*run\.sh", log, re.MULTILINE)
    assert "User=runner" in log

    said = [(entry.step, entry.detail) for entry in ran.told.timeline]
    steps = [step for step, _ in said]
    assert ("booted", booted) in said
    assert ("runner online", "runner is up") in said
    assert steps.index("runner online") < steps.index("job running") < steps.index("completed")
    assert steps[-1] == "destroyed"
    assert system_info(farm) == [("debian", "12")]

    assert ran.token not in ran.console
    assert "HOSTLER_TOKEN" not in ran.console
    assert not list((farm.places.agent_data / "instances").iterdir())
    assert msgspec.json.encode(ran.token)[1:-1] not in farm.places.log("agent").read_bytes()
