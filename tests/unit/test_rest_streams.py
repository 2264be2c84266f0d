"""The streams of events and of the log, over a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

import aiohttp
import pytest
import structlog

from coordinator.accounts.roles import Role
from coordinator.domain.changes import Phase
from coordinator.domain.job import JobStatus
from coordinator.http.server import serve
from coordinator.rest import streams
from coordinator.store.instances import PhaseFact
from hostler import logs, tickets
from hostler.tickets import Kind
from tests.samples.http import Site, open_site
from tests.samples.store import WEBHOOK_SECRET

TOKENS: Final = {role: tickets.ticket(Kind.ADMIN, role.value.encode().ljust(16, b"-")) for role in Role}
EVERYTHING: Final = {"send-everything": True}


class Stage:
    """A site that listens, and a client."""

    def __init__(self, site: Site, session: aiohttp.ClientSession, address: str) -> None:
        self.site = site
        self._session = session
        self._address = address

    @asynccontextmanager
    async def socket(self, path: str, role: Role = Role.ADMIN) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        headers = {"Authorization": f"Bearer {TOKENS[role]}"}
        async with self._session.ws_connect(f"{self._address}/api/v1/ws{path}", headers=headers) as opened:
            yield opened

    async def call(self, method: str, path: str, said: object = None) -> Any:
        headers = {"Authorization": f"Bearer {TOKENS[Role.ADMIN]}"}
        answer = await self.site.client.request(method, f"/api/v1{path}", json=said, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.content else None


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with open_site(tmp_path) as site, aiohttp.ClientSession() as session:
        end = site.sample.clock().replace(year=2999)
        for role, token in TOKENS.items():
            await site.store.admin_tokens.keep(role.value, tickets.digest(token), end, role)
        async with serve(site.app, f"127.0.0.1:{port}"):
            yield Stage(site, session, f"http://127.0.0.1:{port}")


async def _next(opened: aiohttp.ClientWebSocketResponse, seconds: float = 20.0) -> Any:
    return await opened.receive_json(timeout=seconds)


async def _filter(opened: aiohttp.ClientWebSocketResponse, said: object) -> None:
    await opened.send_json(said)
    await asyncio.sleep(0.3)  # nothing says that it was taken


async def test_what_people_change_is_told_as_the_api_shows_it(stage: Stage) -> None:
    async with stage.socket("/events", Role.VIEWER) as opened:
        await _filter(opened, EVERYTHING)
        made = await stage.call("POST", "/gitea/endpoints", {"name": "tea", "base_url": "https://tea.example"})
        assert await _next(opened) == {"entity-type": "gitea_endpoint", "operation": "create", "payload": made}
        changed = await stage.call("PUT", f"/pools/{stage.site.sample.pool.id}", {"priority": 7})
        assert await _next(opened) == {"entity-type": "pool", "operation": "update", "payload": changed}
        secret = {"name": "brew", "endpoint": "tea", "pat": {"oauth2_token": WEBHOOK_SECRET}}
        secret = await stage.call("POST", "/gitea/credentials", secret)
        assert await _next(opened) == {"entity-type": "gitea_credentials", "operation": "create", "payload": secret}
        await stage.call("DELETE", f"/gitea/credentials/{secret['id']}")
        gone = {"entity-type": "gitea_credentials", "operation": "delete", "payload": {"id": secret["id"]}}
        assert await _next(opened) == gone
        told = await stage.call("PUT", "/controller", {"minimum_job_age_backoff": 7})
        assert await _next(opened) == {"entity-type": "controller", "operation": "update", "payload": told}
        said = {"name": "Acme", "credentials_name": "token", "webhook_secret": WEBHOOK_SECRET}
        entity = await stage.call("POST", "/organizations", said)
        assert await _next(opened) == {"entity-type": "organization", "operation": "create", "payload": entity}
        said = {"name": "gpu", "provider_name": "cloud", "image": "i", "flavor": "f"}
        made = await stage.call("POST", f"/organizations/{entity['id']}/scalesets", said)
        assert await _next(opened) == {"entity-type": "scaleset", "operation": "create", "payload": made}


async def test_jobs_and_instances_are_told_from_their_beginning_to_their_end(stage: Stage) -> None:
    sample = stage.site.sample
    async with stage.socket("/events") as opened:
        await _filter(opened, EVERYTHING)
        await sample.queue(7)
        event = await _next(opened)
        assert (event["entity-type"], event["operation"], event["payload"]["id"]) == ("job", "create", 7)
        await sample.store.ledger.record(sample.event(JobStatus.COMPLETED, 7))
        event = await _next(opened)
        assert (event["operation"], event["payload"]["status"]) == ("update", "completed")
        machine = await sample.instance(8)
        seen = [await _next(opened) for _ in range(2)]
        assert {(one["entity-type"], one["operation"]) for one in seen} == {("job", "create"), ("instance", "create")}
        sample.clock.move(minutes=1)
        await sample.store.instances.record_phase(PhaseFact("host-1", machine.id, Phase.DELETED, sample.clock()))
        while (event := await _next(opened))["operation"] != "delete":
            assert event["operation"] == "update"
        assert (event["entity-type"], event["payload"]["name"]) == ("instance", machine.name)


async def test_users_are_told_of_to_those_who_may_see_them(stage: Stage) -> None:
    said = {
        "username": "grace",
        "email": "g@example.org",
        "password": "correct-Horse-battery-9-staple",
        "role": "viewer",
    }
    async with stage.socket("/events") as admin, stage.socket("/events", Role.OPERATOR) as operator:
        for opened in (admin, operator):
            await _filter(opened, EVERYTHING)
        made = await stage.call("POST", "/users", said)
        assert await _next(admin) == {"entity-type": "user", "operation": "create", "payload": made}
        changed = await stage.call("PUT", f"/users/{made['id']}", {"role": "operator"})
        assert await _next(admin) == {"entity-type": "user", "operation": "update", "payload": changed}
        await stage.call("DELETE", f"/users/{made['id']}")
        assert await _next(admin) == {"entity-type": "user", "operation": "delete", "payload": {"id": made["id"]}}
        await stage.call("PUT", "/controller", {"minimum_job_age_backoff": 7})
        assert (await _next(operator))["entity-type"] == "controller"


async def test_nothing_is_told_but_what_was_asked_for(stage: Stage) -> None:
    wanted = {"filters": [{"entity-type": "job", "operations": ["update"]}, {"entity-type": "controller"}]}
    sample = stage.site.sample
    async with stage.socket("/events") as opened, stage.socket("/events") as silent:
        await _filter(opened, EVERYTHING)
        await _filter(opened, wanted)  # which takes its place
        await sample.queue(7)
        await stage.call("PUT", f"/pools/{sample.pool.id}", {"priority": 7})
        await sample.store.ledger.record(sample.event(JobStatus.COMPLETED, 7))
        await stage.call("PUT", "/controller", {"minimum_job_age_backoff": 7})
        assert [(one["entity-type"], one["operation"]) for one in [await _next(opened), await _next(opened)]] == [
            ("job", "update"),
            ("controller", "update"),
        ]
        with pytest.raises(TimeoutError):
            await _next(silent, 0.5)


@pytest.mark.parametrize("said", ["nonsense", '{"filters": [{"entity-type": 7}]}', '{"filters": [{"operations": []}]}'])
async def test_what_is_no_filter_ends_the_stream(stage: Stage, said: str) -> None:
    async with stage.socket("/events") as opened:
        await opened.send_str(said)
        end = await opened.receive(timeout=20)
        assert (end.type, opened.close_code) == (aiohttp.WSMsgType.CLOSE, 4400)


@pytest.mark.parametrize(("path", "role"), [("/logs", Role.OPERATOR), ("", Role.VIEWER)])
async def test_the_log_is_for_administrators_alone(stage: Stage, path: str, role: Role) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with stage.socket(path, role):
            pass
    assert refused.value.status == 403


async def test_without_a_token_nothing_is_streamed(stage: Stage) -> None:
    with mock.patch.dict(TOKENS, {Role.ADMIN: "nonsense"}), pytest.raises(aiohttp.WSServerHandshakeError):
        async with stage.socket("/events"):
            pass


async def test_a_stream_ends_with_its_token(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_CHECKED_SECONDS", 0.2)
    async with stage.socket("/events", Role.VIEWER) as opened:
        await stage.site.store.admin_tokens.revoke(Role.VIEWER.value)
        end = await opened.receive(timeout=20)
        assert (end.type, opened.close_code) == (aiohttp.WSMsgType.CLOSE, 4401)


async def test_the_log_is_told_as_it_is_written(stage: Stage) -> None:
    before = structlog.get_config()
    logs.configure(json=True)
    try:
        async with stage.socket("/logs") as opened:
            await asyncio.sleep(0.3)
            structlog.get_logger().info("a planted line", number=7)
            while (line := await _next(opened))["msg"] != "a planted line":
                pass
            assert (line["level"], line["number"], "time" in line) == ("INFO", 7, True)
    finally:
        structlog.configure(**before)
