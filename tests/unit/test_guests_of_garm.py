"""The calls that machines make whose scripts are GARM's, one by one and in their order, on a real socket.

Linux: by curl with what those scripts give it (runner API, order of events). Windows: with the heads that Windows
PowerShell 5.1 sends, which announces each body with `Expect: 100-continue` and calls JSON a form.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx
import pytest
import structlog

from coordinator.domain.instance import RunnerStatus
from hostler import logs
from providers.exec.spec import Tool
from tests.samples.runner_site import FILES, RunnerSite, open_runner_site


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[RunnerSite]:
    async with open_runner_site(tmp_path) as opened:
        opened.site.forges.offered = [Tool("linux", "x64", "https://dl.example/r.tar.gz", "r.tar.gz", "", "ab" * 32)]
        yield opened


class Curl:
    """As the functions of those scripts call it."""

    def __init__(self, runner: RunnerSite) -> None:
        self.runner = runner

    async def _run(self, *arguments: str) -> tuple[int, bytes]:
        always = ("--retry", "5", "--retry-delay", "5", "--retry-connrefused", "--fail", "-s")
        bearer = ("-H", "Accept: application/json", "-H", f"Authorization: Bearer {self.runner.token}")
        called = await asyncio.create_subprocess_exec(
            "curl", *always, *bearer, *arguments, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await asyncio.wait_for(called.communicate(), 60)
        return called.returncode or 0, said

    async def get(self, path: str) -> bytes:
        code, said = await self._run("-X", "GET", f"{self.runner.where.metadata}/{path}")
        assert code == 0, path
        return said

    async def refused(self, path: str) -> bool:
        return (await self._run("-X", "GET", f"{self.runner.where.metadata}/{path}"))[0] == 22

    async def post(self, path: str, payload: str) -> int:
        return (await self._run("-X", "POST", "-d", payload, f"{self.runner.where.callback}/{path}"))[0]


async def test_a_linux_machine_makes_all_its_calls(runner: RunnerSite) -> None:
    curl = Curl(runner)
    assert (await curl.get("install-script/")).startswith(b"#!/bin/sh")
    metadata = json.loads(await curl.get("runner-metadata"))
    assert metadata["agent_mode"] is False
    for message in ("using cached runner found in /home/runner/actions-runner", "configuring runner"):
        assert await curl.post("status", f'{{"status": "installing", "message": "{message}"}}') == 0
    for name in ("runner", "credentials", "credentials_rsaparams"):
        assert await curl.get(f"credentials/{name}") == FILES[f".{name}"]
    service = await curl.get("system/service-name")
    assert service.decode() == "actions.runner.Octo.Widgets"
    unit = await curl.get("systemd/unit-file?runAsUser=runner")
    assert b"\nUser=runner\n" in unit
    assert b"\nWantedBy=multi-user.target\n" in unit  # it is enabled as well as started
    # The runner is started before this is said.
    assert await curl.post("system-info/", '{"os_name": "Debian GNU/Linux", "os_version": "12", "agent_id": null}') == 0
    done = '{"status": "idle", "message": "runner successfully installed", "agent_id": null}'
    assert await curl.post("status", done) == 0
    assert (await runner.now()).runner_status is RunnerStatus.IDLE
    assert await curl.refused("credentials/runner")
    assert await curl.post("status", done) == 22


async def test_a_machine_that_reads_its_runners_id_may_say_it(runner: RunnerSite) -> None:
    agent = json.loads(FILES[".runner"])["agentId"]
    said = f'{{"status": "idle", "message": "runner successfully installed", "agent_id": {agent}}}'
    assert await Curl(runner).post("status/", said) == 0
    assert (await runner.now()).runner_status is RunnerStatus.IDLE


async def test_no_registration_token_is_given_where_there_is_a_just_in_time_configuration(runner: RunnerSite) -> None:
    assert await Curl(runner).refused("runner-registration-token/")


async def test_no_log_tells_a_secret_however_much_is_logged(
    runner: RunnerSite, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("debug")
    curl = Curl(runner)
    await curl.get("install-script")
    for name in ("runner", "credentials", "credentials_rsaparams"):
        await curl.get(f"credentials/{name}")
        assert await curl.refused(f"credentials/{name}")
    assert await curl.post("status", '{"status": "sleepy"}') == 22
    assert await curl.post("status", '{"status": "failed", "message": "no disk"}') == 0
    assert await curl.refused("runner-metadata")
    structlog.get_logger().debug("logs are read")
    shown = "".join(capfd.readouterr())
    assert "logs are read" in shown
    for secret in (runner.token, runner.token.split(".")[2], "secret-of-credentials", "secret-of-rsaparams"):
        assert secret not in shown


class PowerShell:
    """`Invoke-WebRequest` as that version sends it."""

    def __init__(self, runner: RunnerSite) -> None:
        self.runner = runner
        self._agent = "Mozilla/5.0 (Windows NT; Windows NT 10.0; en-US) WindowsPowerShell/5.1.20348.2849"

    async def _send(self, method: str, url: str, *lines: str, body: bytes = b"") -> tuple[int, str, bytes]:
        target = httpx.URL(url)
        reader, writer = await asyncio.open_connection(target.host, target.port)
        bearer = f"Authorization: Bearer {self.runner.token}"
        head = (
            f"{method} {target.raw_path.decode()} HTTP/1.1", f"User-Agent: {self._agent}", "Accept: application/json",
            bearer, *lines, f"Host: {target.host}:{target.port}", "Connection: Close",
        )  # fmt: skip
        try:
            writer.write("\r\n".join(head).encode() + b"\r\n\r\n")
            answered = b""
            if body:
                answered = await reader.readuntil(b"\r\n\r\n")  # what is refused is so without its body
                if answered.startswith(b"HTTP/1.1 100"):
                    writer.write(body)
                    answered = b""
            answered += await asyncio.wait_for(reader.read(), 30)
        finally:
            writer.close()
        start, _, content = answered.partition(b"\r\n\r\n")
        status, *fields = start.decode().split("\r\n")
        kinds = [field.split(":", 1)[1].strip() for field in fields if field.lower().startswith("content-type:")]
        return int(status.split()[1]), "".join(kinds), content

    async def get(self, path: str) -> tuple[str, bytes]:
        status, kind, content = await self._send("GET", f"{self.runner.where.metadata}/{path}")
        assert status == 200, path
        return kind, content

    async def post(self, path: str, payload: dict[str, object], kind: str = "application/x-www-form-urlencoded") -> int:
        return (await self.send_json(f"{self.runner.where.callback}/{path}", payload, kind))[0]

    async def send_json(self, url: str, payload: Mapping[str, object], kind: str) -> tuple[int, str, bytes]:
        """Status, content type and body of the answer."""
        body = json.dumps(payload, indent=4).replace("\n", "\r\n").encode()
        lines = (f"Content-Type: {kind}", "Expect: 100-continue", f"Content-Length: {len(body)}")
        return await self._send("POST", url, *lines, body=body)


async def test_a_windows_machine_makes_all_its_calls(runner: RunnerSite) -> None:
    powershell = PowerShell(runner)
    kind, script = await powershell.get("install-script/")
    assert kind.startswith("text/plain")
    assert script
    assert not json.loads((await powershell.get("runner-metadata"))[1])["agent_mode"]
    # Each certificate of it would be imported: there must be an object to look through.
    assert json.loads((await powershell.get("system/cert-bundle"))[1]) == {"root_certificates": {}}
    for message in ("using cached runner found at C:\\actions-runner", "downloading JIT credentials"):
        assert await powershell.post("status", {"message": message, "status": "installing"}) == 200
    for name in ("runner", "credentials", "credentials_rsaparams"):
        kind, content = await powershell.get(f"credentials/{name}")
        # One that PowerShell takes for text is turned into it, and its bytes are lost.
        assert kind == "application/octet-stream"
        assert content == FILES[f".{name}"]
    kind, service = await powershell.get("system/service-name")
    assert (kind.split(";")[0], service) == ("text/plain", b"actions.runner.Octo.Widgets")
    told: dict[str, object] = {"agent_id": None, "os_name": "Microsoft Windows Server 2022", "os_version": "10.0.20348"}
    assert await powershell.post("system-info/", told, "application/json") == 200
    assert await powershell.post("status", {"message": "runner successfully installed", "status": "idle"}) == 200
    assert (await runner.now()).runner_status is RunnerStatus.IDLE
    assert await powershell.post("status", {"message": "again", "status": "idle"}) == 401


async def test_a_windows_machine_that_fails_is_heard(runner: RunnerSite) -> None:
    assert await PowerShell(runner).post("status", {"message": "Failed to grant privileges", "status": "failed"}) == 200
    assert (await runner.now()).fault == "Failed to grant privileges"
