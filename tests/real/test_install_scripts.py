"""The scripts that cloud machines get, run unchanged by the machine's own shell against the coordinator's own listener.

The shell has its own /etc and /home; systemd is not there, so `systemctl` only notes what it is asked.
"""

import asyncio
import base64
import hashlib
import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from coordinator.declare_text import ProxyDeclaration
from coordinator.domain.changes import Step
from coordinator.domain.instance import RunnerStatus, Status
from coordinator.runner_api import scripts
from coordinator.runner_api.outside import outside_of
from coordinator.store.edits import POOL
from providers.exec.spec import Tool
from tests.samples.forges import ca_certificate
from tests.samples.runner_site import FILES, RunnerSite, open_runner_site

pytestmark = pytest.mark.real

_DOWNLOAD_TOKEN = "planted-download-token"
# A mount namespace of its own, so that nothing of this outlives the shell.
_IN_A_ROOM = """
set -eu
mount --make-rprivate /
cp -a /etc "$AREA/etc"
mount --bind "$AREA/etc" /etc
mount --bind "$AREA/home" /home
[ ! -d /usr/local/share/ca-certificates ] || mount --bind "$AREA/trusted" /usr/local/share/ca-certificates
exec env -i PATH="$AREA/bin:/usr/sbin:/usr/bin:/sbin:/bin" AREA="$AREA" "$@"
"""
_NOTES_ITS_CALL = '#!/bin/sh\n{ echo "${0##*/} $*"; env; } >>"$AREA/calls"\n'


def _archive() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, text in {
            "run.sh": "#!/bin/sh\necho runs\n",
            "bin/installdependencies.sh": '#!/bin/sh\nenv >"$AREA/dependencies"\n',
        }.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o755
            archive.addfile(member, io.BytesIO(text.encode()))
    return made.getvalue()


_ARCHIVE = _archive()


class Room:
    """A machine for one script."""

    def __init__(self, area: Path, runner: RunnerSite) -> None:
        self.area = area
        self.runner = runner
        for name in ("bin", "home", "trusted"):
            (area / name).mkdir(parents=True)
        self._program("systemctl", "")
        self._program("curl", 'exec /usr/bin/curl "$@"\n')

    def _program(self, name: str, then: str) -> None:
        (self.area / "bin" / name).write_text(_NOTES_ITS_CALL + then)
        (self.area / "bin" / name).chmod(0o755)

    @property
    def folder(self) -> Path:
        return self.area / "home" / "runner" / "actions-runner"

    @property
    def uid(self) -> int:
        """Of the user `runner`, which the script has made."""
        lines = (self.area / "etc" / "passwd").read_text().splitlines()
        return next(int(line.split(":")[2]) for line in lines if line.startswith("runner:"))

    @property
    def calls(self) -> list[str]:
        return (self.area / "calls").read_text().splitlines()

    def has_runner(self) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "run.sh").write_text("#!/bin/sh\n")
        (self.folder / "run.sh").chmod(0o755)

    async def run(self, *shell: str) -> tuple[int, str]:
        one = self.runner
        pool = await one.site.store.catalog.pool(one.machine.pool_id)
        script = self.area / "user-data"
        outside = await outside_of(one.site.store, pool, await one.site.store.catalog.forge_access(pool.entity_id))
        script.write_text(scripts.wrapper(one.machine, pool, one.where, one.token, outside))
        process = await asyncio.create_subprocess_exec(
            *("unshare", "--mount", "sh", "-c", _IN_A_ROOM, "room", *shell, str(script)),
            env=os.environ | {"AREA": str(self.area)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(), 120)
        return process.returncode or 0, said.decode()


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[RunnerSite]:
    async with open_runner_site(tmp_path) as opened:
        yield opened


@pytest.fixture
def room(tmp_path: Path, runner: RunnerSite) -> Room:
    return Room(tmp_path / "area", runner)


@pytest.fixture
async def downloads(runner: RunnerSite) -> AsyncIterator[list[str]]:
    """A server that has the runner's archive; what it was asked with."""
    asked: list[str] = []

    async def give(request: web.Request) -> web.Response:
        asked.append(request.headers.get("Authorization", ""))
        return web.Response(body=_ARCHIVE)

    app = web.Application()
    app.router.add_get("/runner.tar.gz", give)
    server = web.AppRunner(app, access_log=None)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{server.addresses[0][1]}/runner.tar.gz"
    checksum = hashlib.sha256(_ARCHIVE).hexdigest().upper()
    runner.site.forges.offered = [Tool("linux", "x64", url, "runner.tar.gz", _DOWNLOAD_TOKEN, checksum)]
    yield asked
    await server.cleanup()


class Proxy:
    """Passes on what it is asked for, and notes who asked for what."""

    def __init__(self) -> None:
        self.address = ""
        self.asked: list[str] = []
        self.logins: set[str] = set()

    async def pass_on(self, request: web.BaseRequest) -> web.Response:
        self.asked.append(request.message.path)
        self.logins.add(request.headers.get("Proxy-Authorization", ""))
        kept = {name: value for name, value in request.headers.items() if not name.lower().startswith("proxy-")}
        body = await request.read()
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(request.method, request.message.path, headers=kept, data=body) as answer,
        ):
            return web.Response(
                status=answer.status, body=await answer.read(), headers={"Content-Type": answer.content_type}
            )


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    made = Proxy()
    server = web.ServerRunner(web.Server(made.pass_on))
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    made.address = f"http://127.0.0.1:{server.addresses[0][1]}"
    yield made
    await server.cleanup()


def _nothing_secret_was_shown(room: Room, said: str) -> None:
    shown = said + "\n".join(room.calls)
    for secret in (room.runner.token, _DOWNLOAD_TOKEN, "secret-of-credentials", "secret-of-rsaparams"):
        assert secret not in shown


async def _is_a_runner(room: Room, said: str) -> None:
    for name, content in FILES.items():
        file = room.folder / name
        assert file.read_bytes() == content, said
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.stat().st_uid == room.uid
    unit = (room.area / "etc/systemd/system/hostler-runner.service").read_text()
    assert "\nUser=runner\n" in unit
    assert [call for call in room.calls if call.startswith("systemctl")] == [
        "systemctl daemon-reload",
        "systemctl start --no-block hostler-runner.service",
    ]
    assert (await room.runner.now()).runner_status is RunnerStatus.IDLE
    _nothing_secret_was_shown(room, said)


@pytest.mark.parametrize("shell", ["sh", "bash"])
async def test_a_machine_without_the_runner_downloads_checks_and_starts_it(
    room: Room, downloads: list[str], shell: str
) -> None:
    code, said = await room.run(shell)
    assert code == 0, said
    await _is_a_runner(room, said)
    assert downloads == [f"Bearer {_DOWNLOAD_TOKEN}"]
    assert (room.area / "dependencies").exists()
    assert (room.folder / "run.sh").stat().st_uid == room.uid
    steps = [entry.step for entry in await room.runner.site.store.history.of_instance(room.runner.machine.id)]
    assert [one for one in steps if one in (Step.BOOTED, Step.RUNNER_ONLINE)] == [Step.BOOTED, Step.RUNNER_ONLINE]


async def test_a_machine_that_has_the_runner_needs_three_calls(room: Room, downloads: list[str]) -> None:
    room.has_runner()
    code, said = await room.run("sh")
    assert code == 0, said
    await _is_a_runner(room, said)
    assert downloads == []
    assert [call.split("/api/v1/")[1] for call in room.calls if call.startswith("curl ")] == [
        "metadata/install-script",
        "metadata/runner",
        "callbacks/status",
    ]


async def test_a_wrong_archive_is_not_unpacked_and_the_coordinator_hears_why(room: Room, downloads: list[str]) -> None:
    offered = room.runner.site.forges.offered
    assert offered is not None
    room.runner.site.forges.offered = [Tool("linux", "x64", offered[0].download_url, "runner.tar.gz", "", "0" * 64)]
    code, said = await room.run("sh")
    assert code == 1
    assert downloads == [""]
    assert not (room.folder / "run.sh").exists()
    ended = await room.runner.now()
    assert (ended.status, ended.fault) == (Status.PENDING_DELETE, "the runner's archive has a wrong checksum")
    _nothing_secret_was_shown(room, said)


async def test_a_machine_behind_a_proxy_reaches_everything_by_it_and_trusts_whom_it_is_told_to(
    room: Room, downloads: list[str], proxy: Proxy
) -> None:
    store = room.runner.site.store
    out = ProxyDeclaration(name="out", http_proxy=proxy.address, username="ada", password="hu/sh")
    await store.edits.add(out, frozenset())
    await store.edits.change(POOL, room.runner.machine.pool_id, {"proxy": "out"}, frozenset())
    await store.settings.change({"ca_bundle": ca_certificate()})
    code, said = await room.run("sh")
    assert code == 0, said
    await _is_a_runner(room, said)
    assert len(downloads) == 1
    assert [url.rpartition("/")[2] for url in proxy.asked] == [
        "install-script", "status", "runner.tar.gz", "runner", "status",
    ]  # fmt: skip
    assert proxy.logins == {f"Basic {base64.b64encode(b'ada:hu/sh').decode()}"}
    address = proxy.address.replace("http://", "http://ada:hu%2Fsh@")
    assert f"\nHTTP_PROXY={address}\n" in "\n" + (room.area / "dependencies").read_text()
    unit = (room.area / "etc/systemd/system/hostler-runner.service").read_text()
    assert f'\nEnvironment="http_proxy={address.replace("%", "%%")}"\n' in unit
    assert ca_certificate() in (room.area / "etc/ssl/certs/ca-certificates.crt").read_text()
