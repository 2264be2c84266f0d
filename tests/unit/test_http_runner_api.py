"""The runner API: every path answers its machine and nobody else, and secrets are handed out once."""

import asyncio
import base64
import io
import json
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import httpx
import msgspec
import pytest
import sqlalchemy as sa

from coordinator.domain.changes import Phase, Step
from coordinator.domain.instance import Instance, RunnerStatus, Status
from coordinator.runner_api.waiting import Waiting
from coordinator.store.instances import PhaseFact
from coordinator.store.schema import instances
from coordinator.tokens import InstanceTokens
from providers.exec.spec import Tool
from tests.samples.http import PUBLIC_URL, SaidTools, Site, open_site

FILES = {".runner": b'{"agentId":7}', ".credentials": b"hush", ".credentials_rsaparams": b"\x00binary\xff"}
TOOL = Tool(os="linux", architecture="x64", download_url="https://dl.example/runner.tar.gz", sha256_checksum="ab" * 32)
PATHS = [
    ("POST", "/callbacks/status"),
    ("POST", "/callbacks/system-info"),
    ("GET", "/metadata/runner-metadata"),
    ("POST", "/metadata/runner"),
    ("GET", "/metadata/credentials/runner"),
    ("GET", "/metadata/credentials/nothing"),
    ("GET", "/metadata/system/cert-bundle"),
    ("GET", "/metadata/system/service-name"),
    ("GET", "/metadata/systemd/unit-file"),
    ("GET", "/metadata/install-script"),
    ("GET", "/metadata/runner-registration-token"),
]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path, configuration_seconds=0.05) as opened:
        opened.forges.offered = [TOOL]
        yield opened


@pytest.fixture
async def machine(site: Site) -> Instance:
    """A machine that boots, its runner's configuration at hand."""
    one = await site.sample.instance()
    for phase in (Phase.ACCEPTED, Phase.STARTED):
        await site.store.instances.record_phase(PhaseFact("host-1", one.id, phase, site.sample.clock()))
    await site.store.instances.configure_runner(one.id, 7, FILES)
    return one


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_every_path_answers_with_and_without_a_trailing_slash(
    site: Site, machine: Instance, method: str, path: str, slash: str
) -> None:
    said = {"status": "installing"} if path.endswith("status") else {} if method == "POST" else None
    answer = await site.call(method, path + slash, machine, said)
    expected = 404 if path.endswith("nothing") else 401 if path.endswith("registration-token") else 200
    assert answer.status_code == expected
    if expected != 200:
        assert set(answer.json()) == {"error", "details"}


# --- who may call ---


async def _deleted(site: Site, machine: Instance) -> str:
    fact = PhaseFact("host-1", machine.id, Phase.DELETED, site.sample.clock())
    await site.store.instances.record_phase(fact)
    return f"Bearer {await site.token(machine)}"


async def _said(site: Site, machine: Instance, status: RunnerStatus) -> str:
    await site.store.instances.runner_said(machine.id, status, "")
    return f"Bearer {await site.token(machine)}"


async def _expired(site: Site, machine: Instance) -> str:
    token = await site.token(machine)
    site.sample.clock.move(minutes=25)
    return f"Bearer {token}"


async def _foreign(site: Site, machine: Instance) -> str:
    entity = (await site.store.catalog.entities())[0]
    return f"Bearer {InstanceTokens(b'x' * 32, site.sample.clock).mint(machine, entity)}"


async def _of_another_attempt(site: Site, machine: Instance) -> str:
    return f"Bearer {await site.token(msgspec.structs.replace(machine, generation=machine.generation + 1))}"


async def _as_basic(site: Site, machine: Instance) -> str:
    return f"Basic {await site.token(machine)}"


async def _tampered(site: Site, machine: Instance) -> str:
    head, claims, seal = (await site.token(machine)).split(".")
    return f"Bearer {head}.{claims[:-2]}.{seal}"


def _always(value: str) -> Callable[[Site, Instance], Awaitable[str]]:
    async def give(_site: Site, _machine: Instance) -> str:
        return value

    return give


REFUSED: dict[str, Callable[[Site, Instance], Awaitable[str]]] = {
    "nothing": _always(""),
    "no token": _always("Bearer"),
    "a wrong token": _always("Bearer x.y.z"),
    "text": _always("Bearer \xe4\xf6 %00"),
    "another scheme": _as_basic,
    "tampered": _tampered,
    "expired": _expired,
    "of another controller": _foreign,
    "of another attempt": _of_another_attempt,
    "of a deleted machine": _deleted,
    "of a runner that is up": lambda site, one: _said(site, one, RunnerStatus.IDLE),
    "of a runner that failed": lambda site, one: _said(site, one, RunnerStatus.FAILED),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_everybody_else_is_refused_alike_on_every_path(site: Site, machine: Instance, kind: str) -> None:
    authorization = await REFUSED[kind](site, machine)
    answers = set()
    for method, path in PATHS:
        sent = [(b"Authorization", authorization.encode("latin-1"))] if authorization else []
        answer = await site.machine.request(method, f"/api/v1{path}", content=b"{}", headers=sent)
        answers.add((answer.status_code, answer.content))
    assert {status for status, _ in answers} == {401}
    assert len(answers) == 1
    assert set(json.loads(answers.pop()[1])) == {"error", "details"}


async def test_a_quick_machine_may_call_before_its_host_has_said_anything(site: Site) -> None:
    early = await site.sample.instance()
    assert early.status is Status.PENDING_CREATE
    assert (await site.call("POST", "/callbacks/status", early, {"status": "installing"})).status_code == 200


# --- status ---


async def test_a_status_is_taken_and_idle_ends_the_token(site: Site, machine: Instance) -> None:
    for status in ("installing", "installing", "idle"):
        answer = await site.call(
            "POST", "/callbacks/status", machine, {"status": status, "message": "m", "agent_id": 7}
        )
        assert answer.status_code == 200
    assert (await site.sample.now(machine)).runner_status is RunnerStatus.IDLE
    assert (await site.call("POST", "/callbacks/status", machine, {"status": "idle"})).status_code == 401


@pytest.mark.parametrize(
    "said",
    [
        {"status": "pending"},
        {"status": "active"},
        {"status": "offline"},
        {"status": "terminated"},
        {"status": "online"},
        {"status": ""},
        {"status": 1},
        {"message": "no status"},
        {"status": "installing", "agent_id": 8},
        {"status": "idle", "agent_id": -7},
        {"status": "idle", "agent_id": "7"},
        ["idle"],
        "idle",
    ],
)
async def test_a_status_that_cannot_be_is_refused_and_changes_nothing(
    site: Site, machine: Instance, said: object
) -> None:
    before = await site.sample.now(machine)
    assert (await site.call("POST", "/callbacks/status", machine, said)).status_code == 400
    assert await site.sample.now(machine) == before


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"status":' * 25_000])
@pytest.mark.parametrize("path", ["status", "system-info"])
async def test_a_body_that_is_none_is_refused(site: Site, machine: Instance, content: bytes, path: str) -> None:
    authorization = {"Authorization": f"Bearer {await site.token(machine)}"}
    answer = await site.machine.post(f"/api/v1/callbacks/{path}", content=content, headers=authorization)
    assert answer.status_code == 400


async def test_a_failed_machine_says_why_and_is_sent_away(site: Site, machine: Instance) -> None:
    await site.call("POST", "/callbacks/status", machine, {"status": "failed", "message": "no disk\0 left" + "!" * 600})
    ended = await site.sample.now(machine)
    assert ended.status is Status.PENDING_DELETE
    assert ended.fault.startswith("no disk left!!!")
    assert len(ended.fault) <= 500


# --- the runner's configuration ---


async def test_each_file_is_handed_out_once(site: Site, machine: Instance) -> None:
    for name in ("runner", "credentials", "credentials_rsaparams"):
        first = await site.call("GET", f"/metadata/credentials/{name}", machine)
        assert (first.status_code, first.content) == (200, FILES[f".{name}"])
        second = await site.call("GET", f"/metadata/credentials/{name}/", machine)
        assert second.status_code == 410
        assert second.json()["error"] == "Gone"


async def test_of_many_that_ask_at_once_one_gets_the_file(site: Site, machine: Instance) -> None:
    answers = await asyncio.gather(*(site.call("GET", "/metadata/credentials/runner", machine) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] + [410] * 9


@pytest.mark.parametrize("name", [".runner", "..%2fsecrets.key", "Runner", "runner_files"])
async def test_there_are_no_other_files(site: Site, machine: Instance, name: str) -> None:
    assert (await site.call("GET", f"/metadata/credentials/{name}", machine)).status_code == 404


async def test_a_file_that_the_forge_did_not_give_is_not_found(site: Site) -> None:
    one = await site.sample.instance()
    await site.store.instances.configure_runner(one.id, 7, {".runner": b"{}"})
    assert (await site.call("GET", "/metadata/credentials/credentials", one)).status_code == 404


async def test_a_file_whose_taking_outlasts_the_wait_is_not_lost() -> None:
    taking, may_be_told = asyncio.Event(), asyncio.Event()

    async def take() -> bytes:
        taking.set()
        await may_be_told.wait()
        return b"once"

    asked = asyncio.create_task(Waiting().until("machine", take, seconds=0.0))
    await taking.wait()
    await asyncio.wait({asked}, timeout=0.05)
    may_be_told.set()
    assert await asked == b"once"


async def test_a_machine_waits_for_a_configuration_that_comes_later(tmp_path: Path) -> None:
    async with open_site(tmp_path, configuration_seconds=20) as site:
        one = await site.sample.instance()
        asking = asyncio.create_task(site.call("GET", "/metadata/credentials/runner", one))
        while not site.waiting._waiters:
            await asyncio.sleep(0.001)
        await site.store.instances.configure_runner(one.id, 7, FILES)
        site.waiting.notify(one.id)
        async with asyncio.timeout(10):
            answer: httpx.Response = await asking
        assert (answer.status_code, answer.content) == (200, FILES[".runner"])
        assert not site.waiting._waiters


async def test_a_configuration_that_does_not_come_is_a_503_and_is_not_lost(site: Site) -> None:
    one = await site.sample.instance()
    assert (await site.call("GET", "/metadata/credentials/runner", one)).status_code == 503
    assert not site.waiting._waiters
    await site.store.instances.configure_runner(one.id, 7, FILES)
    assert (await site.call("GET", "/metadata/credentials/runner", one)).status_code == 200


# --- all at once ---


async def _all(site: Site, machine: Instance, kind: str = "application/json", **params: str) -> httpx.Response:
    sent = {"Authorization": f"Bearer {await site.token(machine)}", "Accept": kind}
    told = {"os_name": "debian", "os_version": "12"}
    return await site.machine.post("/api/v1/metadata/runner", json=told, headers=sent, params=params)


async def test_one_call_gives_all_that_many_calls_give(site: Site, machine: Instance) -> None:
    unit = (await site.call("GET", "/metadata/systemd/unit-file", machine)).text
    service = (await site.call("GET", "/metadata/system/service-name", machine)).text
    told = (await site.call("GET", "/metadata/runner-metadata", machine)).json()
    answer = await _all(site, machine)
    assert answer.headers["content-type"] == "application/json"
    given = answer.json()
    assert {name: base64.b64decode(content) for name, content in given.pop("files").items()} == FILES
    same = ("runner_name", "runner_labels", "forge_type", "runner_registration_url")
    assert given == {name: told[name] for name in same} | {"unit": unit, "service_name": service}


async def test_shells_get_the_same_as_an_archive(site: Site, machine: Instance) -> None:
    answer = await _all(site, machine, "application/x-tar", runAsUser="builder")
    assert answer.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        members = {one.name: archive.extractfile(one) for one in archive}
        assert {one.mode for one in archive} == {0o600}
        content = {name: file.read() for name, file in members.items() if file is not None}
    assert content.keys() == {"unit", "service-name"} | {f"files/{name}" for name in FILES}
    assert {name.removeprefix("files/"): content[name] for name in content if "files" in name} == FILES
    assert b"\nUser=builder\n" in content["unit"]


async def test_all_is_handed_out_once_and_single_files_count(site: Site, machine: Instance) -> None:
    answers = await asyncio.gather(*(_all(site, machine) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200] + [410] * 4
    for name in ("runner", "credentials", "credentials_rsaparams"):
        assert (await site.call("GET", f"/metadata/credentials/{name}", machine)).status_code == 410


async def test_who_has_a_file_already_is_not_given_all(site: Site, machine: Instance) -> None:
    assert (await site.call("GET", "/metadata/credentials/runner", machine)).status_code == 200
    answer = await _all(site, machine)
    assert (answer.status_code, answer.json()["details"]) == (410, "handed out already: .runner")
    assert (await site.call("GET", "/metadata/credentials/credentials", machine)).status_code == 200


async def test_the_one_call_says_that_the_machine_has_booted_and_what_its_system_is(site: Site) -> None:
    one = await site.sample.instance()
    assert (await _all(site, one)).status_code == 503  # the forge is late; nothing is lost
    assert (await site.sample.now(one)).runner_status is RunnerStatus.INSTALLING
    await site.store.instances.configure_runner(one.id, 7, FILES)
    assert (await _all(site, one)).status_code == 200
    steps = [entry.step for entry in await site.store.history.of_instance(one.id)]
    assert steps.count(Step.BOOTED) == 1
    columns = sa.select(instances.c.os_name, instances.c.os_version).where(instances.c.id == one.id)
    async with site.store._database.read() as connection:
        assert tuple((await connection.execute(columns)).one()) == ("debian", "12")


async def test_the_one_call_needs_no_body(site: Site, machine: Instance) -> None:
    authorization = {"Authorization": f"Bearer {await site.token(machine)}"}
    assert (await site.machine.post("/api/v1/metadata/runner", headers=authorization)).status_code == 200


async def test_a_refused_call_takes_nothing(site: Site, machine: Instance) -> None:
    assert (await _all(site, machine, runAsUser="run ner")).status_code == 400
    authorization = {"Authorization": f"Bearer {await site.token(machine)}"}
    broken = await site.machine.post("/api/v1/metadata/runner", content=b"{", headers=authorization)
    assert broken.status_code == 400
    assert (await _all(site, machine)).status_code == 200


# --- the rest ---


async def test_a_machine_is_told_what_it_is(site: Site, machine: Instance) -> None:
    told = (await site.call("GET", "/metadata/runner-metadata", machine)).json()
    assert told["runner_name"] == machine.name
    assert told["runner_labels"] == ["linux", "self-hosted"]
    assert told["runner_registration_url"] == "https://forge.example/Octo/Widgets"
    assert told["metadata_access"]["metadata_url"] == f"{PUBLIC_URL}/api/v1/metadata"
    assert told["runner_tools"]["download_url"] == TOOL.download_url
    assert (told["jit_enabled"], told["forge_type"]) == (True, "github")
    assert (await site.call("GET", "/metadata/system/cert-bundle", machine)).json() == {"root_certificates": {}}
    name = await site.call("GET", "/metadata/system/service-name", machine)
    assert name.text == "actions.runner.Octo.Widgets"


async def test_metadata_without_a_forge_is_asked_for_again_but_scripts_need_none(site: Site, machine: Instance) -> None:
    assert isinstance(site.forges, SaidTools)
    site.forges.offered = None
    answer = await site.call("GET", "/metadata/runner-metadata", machine)
    assert answer.status_code == 503
    assert answer.json()["error"] == "Service Unavailable"
    assert (await site.call("GET", "/metadata/install-script", machine)).status_code == 200


async def test_system_info_is_kept_and_cut(site: Site, machine: Instance) -> None:
    said = {"os_name": "debian" + "x" * 200, "os_version": "12", "agent_id": None}
    assert (await site.call("POST", "/callbacks/system-info", machine, said)).status_code == 200
    columns = sa.select(instances.c.os_name, instances.c.os_version).where(instances.c.id == machine.id)
    async with site.store._database.read() as connection:
        kept = (await connection.execute(columns)).one()
    assert tuple(kept) == ("debian" + "x" * 94, "12")


async def test_the_unit_runs_as_the_user_that_is_asked_for(site: Site, machine: Instance) -> None:
    unit = await site.call("GET", "/metadata/systemd/unit-file", machine, params={"runAsUser": "builder"})
    assert "\nUser=builder\n" in unit.text
    assert "\nExecStart=/home/builder/actions-runner/run.sh\n" in unit.text
    assert "\nUser=runner\n" in (await site.call("GET", "/metadata/systemd/unit-file", machine)).text


@pytest.mark.parametrize(
    "user",
    [
        "root\nExecStartPre=/bin/sh",
        "runner\n",
        "runner\r",
        "run ner",
        "../etc",
        "",
        "-x",
        "Runner",
        "r" * 40,
        "%n",
        "a;b",
    ],
)
async def test_no_line_is_smuggled_into_the_unit(site: Site, machine: Instance, user: str) -> None:
    answer = await site.call("GET", "/metadata/systemd/unit-file", machine, params={"runAsUser": user})
    assert answer.status_code == 400


async def test_there_is_no_registration_token(site: Site, machine: Instance) -> None:
    answer = await site.call("GET", "/metadata/runner-registration-token", machine)
    assert answer.status_code == 401
    assert "just-in-time" in answer.json()["details"]


async def test_a_token_lives_five_minutes_longer_than_the_bootstrap_time(site: Site, machine: Instance) -> None:
    token = {"Authorization": f"Bearer {await site.token(machine)}"}
    left = machine.bootstrap_deadline + timedelta(minutes=5) - site.sample.clock()
    site.sample.clock.now += left - timedelta(seconds=1)
    assert (await site.machine.get("/api/v1/metadata/system/service-name", headers=token)).status_code == 200
    site.sample.clock.move(seconds=1)
    assert (await site.machine.get("/api/v1/metadata/system/service-name", headers=token)).status_code == 401


async def test_machines_reach_their_paths_and_no_others(site: Site, machine: Instance) -> None:
    """Each listener serves what it is for: a firewall between the two has something to hold."""
    authorization = {"Authorization": f"Bearer {await site.token(machine)}"}
    path = "/api/v1/metadata/system/service-name"
    assert (await site.machine.get(path, headers=authorization)).status_code == 200
    assert (await site.client.get(path, headers=authorization)).status_code == 404
    assert (await site.machine.post("/webhooks", content=b"{}")).status_code == 404
    assert (await site.machine.get("/healthz")).status_code == 404
