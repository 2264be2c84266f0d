"""Proxies that pools name, and whom machines are to trust: in the REST API, and in all that machines are given."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from coordinator.domain.changes import Phase
from coordinator.domain.instance import Instance
from coordinator.runner_api import scripts
from coordinator.runner_api.outside import Outside, merged, outside_of
from coordinator.store.instances import PhaseFact
from coordinator.store.proxy import with_login
from coordinator.templates.builtin import unit_file
from hostler import tickets
from hostler.tickets import Kind
from providers.exec.spec import ProxyConfig
from tests.samples.domain import instance, pool
from tests.samples.forges import ca_certificate
from tests.samples.http import Site, open_site
from tests.samples.store import DOCUMENT

TOKEN: Final = tickets.ticket(Kind.ADMIN, b"of-the-outside--")
PROXY: Final = {"name": "out", "http_proxy": "http://proxy.example:3128", "no_proxy": "a.example, .b.example"}
LOGIN: Final = {"username": "bu:ilder", "password": "p@ss%w/rd"}
COMPOSED: Final = "http://bu%3Ailder:p%40ss%25w%2Frd@proxy.example:3128"
SCALE_SET: Final = {"name": "gpu", "provider_name": "cloud", "image": "ami-1", "flavor": "m9.huge"}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as opened:
        end = opened.sample.clock().replace(year=2999)
        await opened.store.admin_tokens.keep("ada", tickets.digest(TOKEN), end)
        yield opened


async def _call(site: Site, method: str, path: str, said: object = None, status: int = 200) -> Any:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = await site.client.request(method, f"/api/v1{path}", json=said, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


async def _machine(site: Site, number: int = 1) -> Instance:
    machine = await site.sample.instance(number)
    for phase in (Phase.ACCEPTED, Phase.STARTED):
        await site.store.instances.record_phase(PhaseFact("host-1", machine.id, phase, site.sample.clock()))
    return machine


async def _outside(site: Site) -> Outside:
    pools = await site.store.catalog.pools()
    return await outside_of(site.store, pools[0], await site.store.catalog.forge_access(site.sample.entity_id))


async def test_a_pool_names_a_proxy_by_its_number_and_lets_go_of_it(site: Site) -> None:
    made = await _call(site, "POST", "/proxies", PROXY | LOGIN)
    path = f"/pools/{site.sample.pool.id}"
    changed = await _call(site, "PUT", path, {"proxy_id": made["id"]})
    assert (changed["proxy_id"], changed["proxy_name"], changed["generation"]) == (made["id"], "out", 1)
    assert (await _outside(site)).proxy == ProxyConfig(COMPOSED, "", PROXY["no_proxy"])
    assert "has pools: linux" in (await _call(site, "DELETE", f"/proxies/{made['id']}", status=400))["details"]
    await _call(site, "PUT", f"/proxies/{made['id']}", {"description": "no other way"})
    assert (await _call(site, "GET", path))["generation"] == 1
    await _call(site, "PUT", f"/proxies/{made['id']}", {"password": "other"})
    assert (await _call(site, "GET", path))["generation"] == 2, "idle machines know the old one"
    assert (await _call(site, "PUT", path, {"proxy_id": 0}))["proxy_name"] == ""
    assert (await _outside(site)).proxy == ProxyConfig()
    await _call(site, "DELETE", f"/proxies/{made['id']}")


async def test_a_scale_set_names_one_too(site: Site) -> None:
    made = await _call(site, "POST", "/proxies", PROXY)
    path = f"/repositories/{site.sample.entity_id}/scalesets"
    scale_set = await _call(site, "POST", path, SCALE_SET | {"proxy_id": made["id"]})
    assert (scale_set["proxy_id"], scale_set["proxy_name"]) == (made["id"], "out")
    assert "has scale sets: gpu" in (await _call(site, "DELETE", f"/proxies/{made['id']}", status=400))["details"]


async def test_a_document_declares_a_proxy_and_the_pool_that_names_it(site: Site) -> None:
    document = f'{DOCUMENT}proxy = "out"\n[[proxy]]\nname = "out"\nhttps_proxy = "http://proxy.example:3128"\n'
    assert await site.sample.apply(document) == ["proxy out: created", "pool linux: updated (proxy)"]
    assert await site.sample.apply(document) == []
    with pytest.raises(Exception, match=r"there is no proxy 'none', which 'linux' names \(declare it in a \[\[proxy"):
        await site.sample.apply(DOCUMENT + 'proxy = "none"\n')


async def test_a_machine_is_given_the_proxy_of_its_pool_for_its_runner(site: Site) -> None:
    made = await _call(site, "POST", "/proxies", PROXY | LOGIN)
    await _call(site, "PUT", f"/pools/{site.sample.pool.id}", {"proxy_id": made["id"]})
    unit = (await site.call("GET", "/metadata/systemd/unit-file", await _machine(site))).text
    assert f'\nEnvironment="http_proxy={COMPOSED.replace("%", "%%")}"\n' in unit
    assert '\nEnvironment="NO_PROXY=a.example, .b.example"\n' in unit
    assert "https_proxy" not in unit


async def test_a_machine_is_given_whom_to_trust_each_once(site: Site) -> None:
    bundle = base64.b64encode(ca_certificate().encode()).decode()
    told = await _call(site, "PUT", "/controller", {"ca_cert_bundle": bundle})
    assert base64.b64decode(told["ca_cert_bundle"]).decode() == ca_certificate()
    await _call(site, "PUT", "/github/endpoints/forge", {"ca_cert_bundle": bundle})
    machine = await _machine(site)
    certificates = (await site.call("GET", "/metadata/system/cert-bundle", machine)).json()["root_certificates"]
    assert [base64.b64decode(one).decode() for one in certificates.values()] == [ca_certificate()]
    metadata = (await site.call("GET", "/metadata/runner-metadata", machine)).json()
    assert metadata["ca_bundles"] == certificates
    assert (await _outside(site)).ca_bundle == ca_certificate()
    assert "ca_cert_bundle" not in await _call(site, "PUT", "/controller", {"clear_ca_cert_bundle": True})


def test_bundles_are_merged_with_each_certificate_once() -> None:
    assert merged("", ca_certificate() + "\n\n", ca_certificate()) == ca_certificate()
    assert merged("", "") == ""


@pytest.mark.parametrize(
    ("url", "composed"),
    [
        ("", ""),
        ("http://proxy.example:3128", "http://ada:a%20word@proxy.example:3128"),
        ("http://eve:x@proxy.example", "http://eve:x@proxy.example"),
    ],
)
def test_who_asks_is_said_in_the_address(url: str, composed: str) -> None:
    assert with_login(url, "ada", "a word") == composed


def test_without_a_password_the_name_alone_is_said() -> None:
    assert with_login("http://p.example", "ada", "") == "http://ada@p.example"
    assert with_login("http://p.example", "", "lost") == "http://p.example"


def test_a_unit_takes_nothing_of_an_address_for_its_own() -> None:
    unit = unit_file("github", "runner", {"http_proxy": 'http://a%40"\\b'})
    assert '\nEnvironment="http_proxy=http://a%%40\\"\\\\b"\n' in unit


def test_the_first_script_says_the_proxy_before_it_calls_anybody_and_trusts_whom_it_is_told_to() -> None:
    outside = Outside(ProxyConfig(https_proxy="http://it's:x@p.example"), ca_certificate())
    script = scripts.wrapper(instance(), pool(), scripts.urls("http://c.example"), "token", outside)
    assert script.index("export HTTPS_PROXY='http://it'\\''s:x@p.example'") < script.index("install-script")
    assert script.index(f"printf '%s' '{ca_certificate()}' | trust") < script.index("install-script")
    plain = scripts.wrapper(instance(), pool(), scripts.urls("http://c.example"), "token")
    assert "proxy" not in plain.lower()
    assert "trust" not in plain
