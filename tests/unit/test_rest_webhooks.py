"""Webhooks of entities: installed at the forge, shown and removed; those of others are let alone."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from coordinator.accounts.roles import Role
from coordinator.forges.contract import ForgeRefused, ForgeUnavailable, Webhook
from hostler import tickets
from hostler.tickets import Kind
from tests.samples.http import PUBLIC_URL, Site, open_site
from tests.samples.store import WEBHOOK_SECRET

TOKEN: Final = tickets.ticket(Kind.ADMIN, b"0123456789abcdef")
OTHERS: Final = Webhook(77, "https://elsewhere.example/webhooks", active=True, events=["push"], insecure_ssl=False)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as opened:
        end = opened.sample.clock().replace(year=2999)
        await opened.store.admin_tokens.keep("t", tickets.digest(TOKEN), end, Role.ADMIN)
        opened.hooks.there[OTHERS.id] = OTHERS
        yield opened


async def _call(site: Site, method: str, said: object = None, status: int = 200, path: str = "/webhook") -> Any:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"/api/v1/repositories/{site.sample.entity_id}{path}"
    answer = await site.client.request(method, url, json=said, headers=headers)
    assert answer.status_code == status, answer.text
    assert WEBHOOK_SECRET not in answer.text
    return answer.json() if answer.content else None


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ({}, f"{PUBLIC_URL}/webhooks"),
        ({"webhook_endpoint_type": "direct"}, f"{PUBLIC_URL}/webhooks"),
        ({"webhook_endpoint_type": "controller"}, f"{PUBLIC_URL}/webhooks/CONTROLLER"),
    ],
)
async def test_a_webhook_is_installed_shown_and_removed(site: Site, said: object, url: str) -> None:
    await _call(site, "GET", status=404)
    made = await _call(site, "POST", said)
    assert made["url"] == url.replace("CONTROLLER", site.store.controller_id)
    assert (made["events"], made["active"], made["insecure_ssl"]) == (["workflow_job"], True, False)
    assert site.hooks.secrets[made["id"]] == WEBHOOK_SECRET
    await _call(site, "POST", said, 409)
    assert await _call(site, "GET") == made
    for _ in range(2):
        await _call(site, "DELETE")
    assert site.hooks.there == {OTHERS.id: OTHERS}
    told = [(one.action, one.target) for one in await site.store.audit.page(most=2)]
    assert told == [("uninstalled", f"webhook to {made['url']}"), ("installed", f"webhook to {made['url']}")]


async def test_a_forge_that_says_no_or_nothing_is_told_of(site: Site) -> None:
    for fault, status in ((ForgeUnavailable("the forge is down"), 502), (ForgeRefused("no such permission"), 400)):
        site.hooks.fault = fault
        for method, said in (("GET", None), ("POST", {}), ("DELETE", None)):
            assert str(fault) in (await _call(site, method, said, status))["details"]


async def test_what_is_no_entity_of_that_kind_has_none(site: Site) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("organizations", "forge-instances"):
        for method in ("GET", "DELETE"):
            url = f"/api/v1/{path}/{site.sample.entity_id}/webhook"
            assert (await site.client.request(method, url, headers=headers)).status_code == 404
    url = f"/api/v1/enterprises/{site.sample.entity_id}/webhook"
    assert (await site.client.get(url, headers=headers)).status_code == 404
    assert site.hooks.asked == []


async def test_a_repository_that_is_removed_takes_its_webhook_with_it_unless_it_is_kept(site: Site) -> None:
    await _call(site, "POST", {})
    await _call(site, "DELETE", path="", status=400)  # it has a pool
    assert len(site.hooks.there) == 2
    await _call(site, "DELETE", path=f"/pools/{site.sample.pool.id}")
    await _call(site, "DELETE", path="")
    assert site.hooks.there == {OTHERS.id: OTHERS}
    asked = len(site.hooks.asked)
    await _call(site, "DELETE", path="", status=404)
    assert len(site.hooks.asked) == asked


@pytest.mark.parametrize("fault", [None, ForgeUnavailable("the forge is down")])
async def test_a_webhook_is_left_where_that_is_wanted_or_cannot_be_helped(
    site: Site, fault: ForgeUnavailable | None
) -> None:
    await _call(site, "POST", {})
    site.hooks.fault = fault
    await _call(site, "DELETE", path=f"/pools/{site.sample.pool.id}")
    await _call(site, "DELETE", path="?keepWebhook=true" if fault is None else "")
    assert len(site.hooks.there) == 2
    assert await site.store.catalog.entities() == []
