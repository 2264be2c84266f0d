"""Webhooks: who is answered what, and that nothing but a signed event of a known repository leaves a trace."""

import asyncio
import hashlib
import hmac
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.domain.job import JobStatus
from coordinator.http.webhooks import parse, signed_by, to_event
from coordinator.store.catalog import WebhookOwner
from tests.samples.domain import NOW, calm
from tests.samples.http import Site, body, headers, open_site, payload, signature
from tests.samples.store import WEBHOOK_SECRET

PAYLOADS = Path(__file__).parent.parent / "forge_simulator" / "payloads"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as opened:
        yield opened


def _on_disk(site: Site) -> int:
    with sqlite3.connect(site.sample.directory / "hostler.db") as plain:
        return int(plain.execute("SELECT count(*) FROM jobs").fetchone()[0])


@pytest.mark.parametrize("path", ["/webhooks", "/webhooks/"])
async def test_a_job_is_on_disk_before_the_forge_is_answered(site: Site, path: str) -> None:
    assert _on_disk(site) == 0
    answer = await site.post(body(), path)
    assert answer.status_code == 200
    assert _on_disk(site) == 1


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_controller_takes_what_is_for_it_and_nothing_else(site: Site, slash: str) -> None:
    assert (await site.post(body(), f"/webhooks/{site.store.controller_id}{slash}")).status_code == 200
    assert await site.jobs() == 1
    for other in ("00000000-0000-0000-0000-000000000000", "x", site.store.controller_id.upper() + "0"):
        assert (await site.post(body(number=2), f"/webhooks/{other}{slash}")).status_code == 200
    assert await site.jobs() == 1


async def test_what_is_signed_is_recorded_as_it_says(site: Site) -> None:
    await site.post(body(number=7, labels=["Self-Hosted", "LINUX"], name="tests (3.11)", run_attempt=3))
    job = await site.store.history.job("7")
    assert job is not None
    assert (job.status, job.labels, job.name, job.key.attempt) == (
        JobStatus.QUEUED,
        frozenset({"self-hosted", "linux"}),
        "tests (3.11)",
        3,
    )
    await site.post(body("completed", 7, run_attempt=3, conclusion="failure", runner_name="hostler-1"))
    job = await site.store.history.job("7")
    assert job is not None
    assert (job.status, job.conclusion, job.runner_name) == (JobStatus.COMPLETED, "failure", "hostler-1")


@pytest.mark.parametrize(
    ("event", "content"),
    [
        ("ping", b'{"zen":"Keep it logically awesome.","hook_id":1}'),
        ("push", b"{}"),
        ("workflow_run", body()),
        ("", body()),
        ("ping", b"no json at all"),
    ],
)
async def test_other_events_are_answered_well_and_leave_nothing(site: Site, event: str, content: bytes) -> None:
    assert (await site.post(content, x_github_event=event or None)).status_code == 200
    assert await site.jobs() == 0


@pytest.mark.parametrize(
    "change",
    [
        {"repository": {"name": "widgets", "owner": {"login": "somebody"}}},
        {"repository": {"name": "gadgets", "owner": {"login": "octo"}}},
        {"html_url": "https://other.example/octo/widgets/actions/runs/10/job/1"},
        {"html_url": "https://forge.example:8443/octo/widgets"},
        {"html_url": "not an address"},
        {"html_url": ""},
    ],
)
async def test_a_repository_that_nobody_declared_is_answered_well_and_leaves_nothing(
    site: Site, change: dict[str, Any]
) -> None:
    told = payload()
    if "html_url" in change:
        told["workflow_job"] |= change
    else:
        told |= change
    assert (await site.post(json.dumps(told).encode())).status_code == 200
    assert await site.jobs() == 0


@pytest.mark.parametrize(("action", "labels"), [("requested", ["linux"]), ("", ["linux"]), ("queued", [])])
async def test_what_says_nothing_of_demand_leaves_nothing(site: Site, action: str, labels: list[str]) -> None:
    assert (await site.post(body(action, labels=labels))).status_code == 200
    assert await site.jobs() == 0


async def test_a_job_that_no_pool_serves_is_answered_well_and_waits_for_one(site: Site) -> None:
    """GARM answers 422 and drops it: the delivery shows as failed, and a pool that comes later does not help."""
    answer = await site.post(body(number=7, labels=["self-hosted", "linux", "gpu"]))
    assert (answer.status_code, answer.content) == (200, b"")
    job = await site.store.history.job("7")
    assert job is not None
    assert job.status is JobStatus.QUEUED
    assert await site.store.instances.alive() == []


SHA1 = "sha1=" + hmac.new(WEBHOOK_SECRET.encode(), body(), hashlib.sha1).hexdigest()


@pytest.mark.parametrize(
    "changed",
    [
        {"x_hub_signature_256": signature(body(), "another secret")},
        {"x_hub_signature_256": signature(body(number=2))},
        {"x_hub_signature_256": None},
        {"x_hub_signature_256": None, "x_hub_signature": SHA1},
        {"x_hub_signature_256": SHA1},
        {"x_hub_signature_256": ""},
        {"x_hub_signature_256": "sha256="},
        {"x_hub_signature_256": signature(body()).removeprefix("sha256=")},
        {"x_hub_signature_256": signature(body())[:-1]},
        {"x_hub_signature_256": signature(body()) + "0"},
    ],
    ids=["secret", "body", "missing", "sha1 only", "sha1 there", "empty", "no digest", "no prefix", "short", "long"],
)
async def test_what_is_not_signed_is_refused(site: Site, changed: dict[str, str | None]) -> None:
    answer = await site.post(body(), path="/webhooks", **changed)
    assert answer.status_code == 401
    assert answer.json() == {"error": "Unauthorized", "details": answer.json()["details"]}
    assert "X-Hub-Signature-256" in answer.json()["details"]
    assert await site.jobs() == 0


def _without(*path: str) -> bytes:
    told: Any = payload()
    inner = told
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return json.dumps(told).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        body()[:-1],
        body()[: len(body()) // 2],
        b"null",
        b"[]",
        b'"text"',
        b"[" * 200_000,
        b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        b'{"workflow_job":' * 5_000,
        body().replace(b'"build"', b'"\xff\xfe"'),
        body().replace(b'"queued"', b"NaN"),
        body(id="1"),
        body(id=1.5),
        body(id=None),
        body(id=-1),
        body(id=2**63),
        body(run_id=10**400),
        body(run_attempt=2**31),
        body(labels="linux"),
        body(labels=[1]),
        body(labels=None),
        body(html_url="http://[::1"),
        _without("action"),
        _without("workflow_job"),
        _without("repository"),
        _without("workflow_job", "id"),
        _without("repository", "owner", "login"),
    ],
    ids=lambda content: content[:40].decode(errors="replace") + f" ({len(content)})",
)
async def test_what_is_no_job_event_is_refused_although_it_is_signed(site: Site, content: bytes) -> None:
    answer = await site.post(content)
    assert answer.status_code == 400
    assert answer.json()["error"] == "Bad Request"
    assert set(answer.json()) == {"error", "details"}
    assert await site.jobs() == 0


async def test_the_largest_numbers_that_fit_are_kept(site: Site) -> None:
    assert (await site.post(body(number=2**63 - 1, run_id=2**63 - 1, run_attempt=2**31 - 1))).status_code == 200
    assert await site.jobs() == 1


@pytest.mark.parametrize(("method", "path"), [("GET", "/webhooks"), ("PUT", "/webhooks"), ("POST", "/nowhere")])
async def test_what_is_not_there_is_said_in_the_same_form(site: Site, method: str, path: str) -> None:
    answer = await site.client.request(method, path)
    assert answer.status_code == (404 if path == "/nowhere" else 405)
    assert set(answer.json()) == {"error", "details"}


async def test_an_error_of_ours_is_a_500_that_tells_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: object) -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(site.store.ledger, "record", broken)
    answer = await site.post(body())
    assert answer.status_code == 500
    assert answer.json()["error"] == "Internal Server Error"
    assert "secret" not in answer.text


async def test_deliveries_at_once_are_all_kept_and_repeated_ones_once(site: Site) -> None:
    contents = [body(number=number) for number in range(1, 101)] * 2
    answers = await asyncio.gather(*(site.post(content) for content in contents))
    assert {answer.status_code for answer in answers} == {200}
    assert await site.jobs() == 100


# --- pure parts ---


@pytest.mark.parametrize("example", json.loads((PAYLOADS / "workflow_job.json").read_text()), ids=lambda e: e["action"])
def test_the_forges_own_examples_are_understood(example: dict[str, Any]) -> None:
    parsed = parse(json.dumps(example).encode())
    assert parsed.action == example["action"]
    assert parsed.workflow_job.id == example["workflow_job"]["id"]
    assert parsed.repository.owner.login == example["repository"]["owner"]["login"]


async def test_a_queued_job_has_no_runner_whatever_it_names(site: Site) -> None:
    owner = await site.store.catalog.repository("https://forge.example", "octo", "widgets")
    assert isinstance(owner, WebhookOwner)
    for action, runner in (("waiting", ""), ("queued", ""), ("in_progress", "r"), ("completed", "r")):
        event = to_event(parse(body(action, runner_name="r")), owner, NOW)
        assert event is not None
        assert event.runner_name == runner


@calm
@given(st.binary(max_size=200), st.text(max_size=200))
def test_only_the_right_signature_is_right(content: bytes, header: str) -> None:
    right = signature(content)
    assert signed_by(WEBHOOK_SECRET.encode(), content, right)
    assert signed_by(WEBHOOK_SECRET.encode(), content, header) is (header == right)
    assert not signed_by(b"another", content, right)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
mutated = st.builds(
    lambda job, more: json.dumps(payload() | {"workflow_job": payload()["workflow_job"] | job} | more).encode(),
    st.dictionaries(st.sampled_from([*payload()["workflow_job"], "other"]), json_like, min_size=1, max_size=4),
    st.dictionaries(st.sampled_from(["action", "repository", "sender"]), json_like, max_size=2),
)
header_text = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60)


few = settings(calm, max_examples=15)  # each is a whole site and many requests


async def _fuzz(directory: Path, contents: list[tuple[bytes, dict[str, str]]]) -> tuple[set[int], int]:
    async with open_site(directory) as site:
        statuses = set()
        for content, sent in contents:
            raw = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
            answer = await site.client.post("/webhooks", content=content, headers=raw)
            statuses.add(answer.status_code)
        return statuses, await site.jobs()


@few
@given(st.lists(st.tuples(st.binary(max_size=300) | mutated, header_text, header_text), min_size=1, max_size=25))
def test_whatever_is_sent_unsigned_is_answered_and_leaves_nothing(
    tmp_path_factory: pytest.TempPathFactory, sent: list[tuple[bytes, str, str]]
) -> None:
    requests = [
        (content, headers(content) | {"X-Hub-Signature-256": signed, "Content-Type": kind})
        for content, signed, kind in sent
    ]
    statuses, jobs = asyncio.run(_fuzz(tmp_path_factory.mktemp("fuzz"), requests))
    assert statuses <= {200, 400, 401}
    assert jobs == 0


@few
@given(st.lists(mutated | st.binary(max_size=100), min_size=1, max_size=25))
def test_whatever_is_sent_signed_is_answered_without_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, sent: list[bytes]
) -> None:
    statuses, _ = asyncio.run(_fuzz(tmp_path_factory.mktemp("fuzz"), [(c, headers(c)) for c in sent]))
    assert statuses <= {200, 400}
