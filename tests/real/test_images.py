"""The guest images: built by their scripts and booted by QEMU alone, the test guest against a small runner API."""

import asyncio
import secrets
import subprocess
import time
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import msgspec
import pycdlib
import pytest
from aiohttp import web

from coordinator.runner_api import scripts
from tests.real.conftest import RUNNER_RELEASE_FILE
from tests.samples.bundle import bundle
from tests.samples.domain import forge_access, instance, pool

pytestmark = pytest.mark.real

IMAGES = Path(__file__).parents[2] / "packaging" / "images"

MAC = "52:54:00:12:34:56"

# Shows everything a job could look at; a token that is anywhere within its reach lands on the console.
CURIOUS_RUNNER = """#!/bin/sh
echo "runner of $(id -un) holds $(cat .runner) $(cat .credentials) $(cat .credentials_rsaparams)"
echo "up $(cat /proc/uptime)"
env
cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'
grep -r HOSTLER / --include='*' -s --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev
cat /seed/* 2>&1
cat /dev/vdb 2>&1 | head -c 100000
echo "the job says WORD"
"""


NETWORK_CONFIG = f"""version: 2
ethernets:
  main:
    match: {{macaddress: "{MAC}"}}
    addresses: [10.0.2.15/24]
    routes: [{{to: 0.0.0.0/0, via: 10.0.2.2}}]
    nameservers: {{addresses: [10.0.2.3]}}
"""

# Looks at the machine as a job would, once Docker answers, and powers it off.
INSPECTION = """#cloud-config
runcmd:
  - "until docker info >/tmp/docker-info 2>/dev/null; do sleep 0.5; done"
  - "echo docker up $(cut -d ' ' -f 1 /proc/uptime) $(grep 'Storage Driver' /tmp/docker-info) >/dev/ttyS0"
  - "tar -ch -C / bin/echo $(ldd /bin/echo | grep -o '/[^ ]*' | cut -c2-) | docker import - of-this-machine"
  - "docker run --rm of-this-machine /bin/echo a container ran >/dev/ttyS0 2>&1"
  - "echo root of $(df --output=size -BG / | tail -n 1) on $(hostname) >/dev/ttyS0"
  - "su - runner -c 'docker ps && sudo -n true && cd actions-runner && ./RELEASE_FILE' >/dev/ttyS0 2>&1"
  - "systemctl --failed --no-legend --plain | sed 's/^/unit failed: /' >/dev/ttyS0"
  - "(cloud-init status --wait; echo finished $(cut -d ' ' -f 1 /proc/uptime); poweroff) >/dev/ttyS0 2>&1 &"
"""


class Call(msgspec.Struct, frozen=True):
    method: str
    path: str
    body: bytes
    at: float


class RunnerApi:
    """The coordinator's side of one guest: its token dies with `idle`."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(24)
        self.calls: list[Call] = []
        self.refusals: list[int] = []  # statuses given to the next credentials calls
        self.texts: dict[str, str] = {}  # what is answered, by path, where it is not made up
        self.port = 0
        self._alive = True

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        return runner

    def statuses(self) -> list[dict[str, str]]:
        return [
            msgspec.json.decode(call.body, type=dict[str, str])
            for call in self.calls
            if call.path == "/callbacks/status"
        ]

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Authorization") != f"Bearer {self.token}" or not self._alive:
            return web.Response(status=401)
        if request.path.startswith("/metadata/credentials/") and self.refusals:
            return web.Response(status=self.refusals.pop(0))
        self.calls.append(Call(request.method, request.path, body, time.monotonic()))
        if request.path == "/metadata/runner":
            return web.Response(body=bundle().as_tar())
        if request.method == "POST":
            self._alive = b'"idle"' not in body
            return web.Response()
        if request.path in self.texts:
            return web.Response(text=self.texts[request.path])
        return web.Response(body=f"content of {request.path.rpartition('/')[2]}".encode())


class Boot(msgspec.Struct, frozen=True):
    """One life of a machine, from power-on to power-off."""

    console: str
    powered_on: float
    exit_code: int
    seconds: float


@pytest.fixture
async def api() -> AsyncIterator[RunnerApi]:
    api = RunnerApi()
    runner = await api.start()
    yield api
    await runner.cleanup()


@pytest.fixture
def word() -> str:
    return secrets.token_hex(8)


@pytest.fixture
def image(tmp_path: Path, word: str) -> Path:
    runner = tmp_path / "runner"
    runner.write_text(CURIOUS_RUNNER.replace("WORD", word))
    build("--runner", str(runner), str(tmp_path / "guest.qcow2"))
    return tmp_path / "guest.qcow2"


def build(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([IMAGES / "build-test-guest", *arguments], check=True, capture_output=True, text=True)


def write_seed(path: Path, api: RunnerApi) -> None:
    """A NoCloud seed for QEMU's user networking, where the host's loopback is 10.0.2.2."""
    base = f"http://10.0.2.2:{api.port}"
    environment = f"""HOSTLER_INSTANCE_ID='0b8a6f6e-3f8f-4b54-8f53-7c1ad5ad2a3c'
HOSTLER_INSTANCE_NAME='hostler-guest-1'
HOSTLER_METADATA_URL='{base}/metadata'
HOSTLER_CALLBACK_URL='{base}/callbacks'
HOSTLER_TOKEN='{api.token}'
HOSTLER_ADDRESS='10.0.2.15/24'
HOSTLER_GATEWAY='10.0.2.2'
HOSTLER_DNS='10.0.2.3'
"""
    write_iso(path, {"hostler.env": environment})


def write_iso(path: Path, files: dict[str, str]) -> None:
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for number, (name, text) in enumerate(files.items()):
        content = text.encode()
        iso.add_fp(BytesIO(content), len(content), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    iso.write(str(path))
    iso.close()


async def boot(image: Path, seed: Path | None, *, vcpus: int = 1, memory_mib: int = 256, seconds: float = 60) -> Boot:
    drives = ["-drive", f"file={image},if=virtio,format=qcow2,snapshot=on"]
    if seed:
        drives += ["-drive", f"file={seed},if=virtio,format=raw,readonly=on"]
    powered_on = time.monotonic()
    machine = await asyncio.create_subprocess_exec(
        *["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-no-reboot"],
        *["-smp", str(vcpus), "-m", str(memory_mib)],
        *["-nodefaults", "-display", "none", "-serial", "stdio", "-nic", f"user,model=virtio,mac={MAC}", *drives],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        console, _ = await asyncio.wait_for(machine.communicate(), seconds)
    finally:
        if machine.returncode is None:
            machine.kill()
            await machine.wait()
    return Boot(console.decode(errors="replace"), powered_on, machine.returncode or 0, time.monotonic() - powered_on)


async def test_a_guest_takes_its_configuration_runs_its_runner_and_powers_off(
    image: Path, api: RunnerApi, word: str, tmp_path: Path
) -> None:
    write_seed(tmp_path / "seed.iso", api)
    api.refusals = [503, 409]

    life = await boot(image, tmp_path / "seed.iso")

    assert [(call.method, call.path) for call in api.calls] == [
        ("POST", "/callbacks/status"),
        ("GET", "/metadata/credentials/runner"),
        ("GET", "/metadata/credentials/credentials"),
        ("GET", "/metadata/credentials/credentials_rsaparams"),
        ("POST", "/callbacks/system-info"),
        ("POST", "/callbacks/status"),
    ], life.console
    assert api.statuses() == [
        {"status": "installing", "message": "booted"},
        {"status": "idle", "message": "runner successfully installed"},
    ]
    assert msgspec.json.decode(api.calls[4].body, type=dict[str, str])["os_name"] == "busybox"
    assert "runner of runner holds content of runner content of credentials content of credentials_rsaparams" in (
        life.console
    )
    assert f"the job says {word}" in life.console
    assert "runner ended with exit code 0" in life.console
    assert life.exit_code == 0
    first, idle = (call.at - life.powered_on for call in (api.calls[0], api.calls[-1]))
    print(f"seconds from power-on: first callback {first:.2f}, idle {idle:.2f}, power-off {life.seconds:.2f}")


async def test_the_token_is_nowhere_within_a_jobs_reach(image: Path, api: RunnerApi, word: str, tmp_path: Path) -> None:
    write_seed(tmp_path / "seed.iso", api)

    life = await boot(image, tmp_path / "seed.iso")

    assert f"the job says {word}" in life.console
    assert "can't open '/dev/vdb': Permission denied" in life.console
    assert api.token not in life.console
    assert "HOSTLER_TOKEN=" not in life.console


async def test_a_guest_without_a_right_to_its_configuration_reports_failed_and_powers_off(
    image: Path, api: RunnerApi, word: str, tmp_path: Path
) -> None:
    write_seed(tmp_path / "seed.iso", api)
    api.refusals = [401]

    life = await boot(image, tmp_path / "seed.iso")

    first, last = api.statuses()
    assert first["status"] == "installing"
    assert last["status"] == "failed"
    assert "/metadata/credentials/runner" in last["message"]
    assert "401" in last["message"]
    assert word not in life.console
    assert api.token not in life.console
    assert life.exit_code == 0


async def test_a_guest_without_a_seed_says_so_and_powers_off(image: Path) -> None:
    life = await boot(image, None)

    assert "no disk labelled cidata was found" in life.console
    assert life.exit_code == 0


async def test_a_guest_of_a_cloud_runs_its_user_data_and_then_the_unit_that_this_starts(
    api: RunnerApi, word: str, tmp_path: Path
) -> None:
    runner = tmp_path / "runner"
    runner.write_text(CURIOUS_RUNNER.replace("WORD", word) + "touch written-by-the-runner && uname -n\n")
    image = tmp_path / "guest.qcow2"
    build("--with", "curl", "--with", "install", "--runner", str(runner), str(image))
    where = scripts.Urls(f"http://10.0.2.2:{api.port}/metadata", f"http://10.0.2.2:{api.port}/callbacks")
    script = scripts.install_script(instance(), pool(), forge_access(), where, api.token, [])
    api.texts = {"/metadata/install-script": script}
    seed = tmp_path / "seed.iso"
    meta = '{\n  "instance-id": "i-1",\n  "local-hostname": "hostler-guest-3"\n}\n'
    write_iso(seed, {"meta-data": meta, "user-data": scripts.wrapper(instance(), pool(), where, api.token)})

    life = await boot(image, seed)

    assert [call.path for call in api.calls] == ["/metadata/install-script", "/metadata/runner", "/callbacks/status"], (
        life.console
    )
    assert api.statuses() == [{"status": "idle", "message": "runner is up"}]
    assert "runner of runner holds content of runner content of credentials content of credentials_rsaparams" in (
        life.console
    )
    assert f"the job says {word}" in life.console
    assert "hostler-guest-3" in life.console.splitlines()
    assert "runner ended with exit code 0" in life.console
    assert api.token not in life.console
    assert life.exit_code == 0


@pytest.mark.parametrize(
    ("user_data", "said"),
    [
        ("#cloud-config\n", "neither hostler.env nor user data that is a script"),
        ("#!/bin/sh\nexit 3\n", "user data ended with exit code 3"),
        ("#!/bin/sh\ntrue\n", "user data has started no unit"),
        ("#!/bin/sh\nsystemctl start nothing.service\n", "Unit nothing.service not found."),
    ],
)
async def test_a_guest_of_a_cloud_whose_user_data_makes_no_runner_says_so_and_powers_off(
    image: Path, tmp_path: Path, user_data: str, said: str
) -> None:
    seed = tmp_path / "seed.iso"
    write_iso(seed, {"meta-data": '{"local-hostname": "hostler-guest-3"}', "user-data": user_data})

    life = await boot(image, seed)

    assert said in life.console
    assert life.exit_code == 0


def test_a_built_image_is_left_alone_until_an_input_changes(image: Path, tmp_path: Path) -> None:
    runner = tmp_path / "runner"
    made = image.stat()

    started = time.monotonic()
    again = build("--runner", str(runner), str(image))
    seconds = time.monotonic() - started

    assert again.stdout.strip() == str(image)
    assert image.stat().st_ino == made.st_ino
    assert seconds < 1
    runner.write_text("#!/bin/sh\necho another runner\n")
    build("--runner", str(runner), str(image))
    assert image.stat().st_ino != made.st_ino
    assert {path.name for path in tmp_path.iterdir()} == {"runner", "guest.qcow2", "guest.qcow2.inputs"}


@pytest.fixture
def runner_disk(cloud_init_image: Path, tmp_path: Path) -> Path:
    """As a provider makes it: an overlay as large as the flavor's disk."""
    disk = tmp_path / "disk.qcow2"
    overlay = ["create", "-q", "-f", "qcow2", "-b", str(cloud_init_image), "-F", "qcow2", str(disk), "8G"]
    subprocess.run(["qemu-img", *overlay], check=True)
    return disk


@pytest.mark.timeout(600)
async def test_a_runner_image_runs_cloud_init_docker_and_what_was_unpacked(runner_disk: Path, tmp_path: Path) -> None:
    files = {
        "meta-data": "instance-id: i-1\nlocal-hostname: hostler-guest-2\n",
        "network-config": NETWORK_CONFIG,
        "user-data": INSPECTION.replace("RELEASE_FILE", RUNNER_RELEASE_FILE),
    }
    write_iso(tmp_path / "seed.iso", files)

    life = await boot(runner_disk, tmp_path / "seed.iso", vcpus=2, memory_mib=2048, seconds=300)

    told = [line for line in life.console.splitlines() if "cloud-init[" not in line]
    print(*told, f"powered off after {life.seconds:.1f} s", sep="\n")
    assert any("docker up" in line and "Storage Driver: overlay2" in line for line in told), life.console
    assert "a container ran" in told
    assert any(line.startswith("root of") and "8G on hostler-guest-2" in line for line in told)
    assert f"{RUNNER_RELEASE_FILE} runs as runner" in told
    assert not [line for line in told if line.startswith("unit failed")]
    assert "status: done" in "\n".join(told)
    assert "Invalid cloud-config" not in life.console
    assert life.exit_code == 0
