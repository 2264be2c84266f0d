"""Pools and scale sets that name an install template: their machines are made runners by its text."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from coordinator.domain.changes import Phase
from coordinator.store.instances import PhaseFact
from coordinator.store.writing import Clash, UnknownReference
from coordinator.templates.builtin import SYSTEMS
from coordinator.templates.system import FIRST_OWN, SYSTEM
from hostler import tickets
from hostler.tickets import Kind
from tests.samples.http import Site, open_site
from tests.samples.store import DOCUMENT

TOKEN: Final = tickets.ticket(Kind.ADMIN, b"of-templates----")
TEXT: Final = "#!/bin/sh\necho this is {{ runner_name | sh }}\n"
NAMED: Final = DOCUMENT + 'template = "mine"\n'
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


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def _template(site: Site, name: str = "mine", forge: str = "github", os_type: str = "linux") -> int:
    said = {"name": name, "data": _b64(TEXT), "os_type": os_type, "forge_type": forge}
    return int((await _call(site, "POST", "/templates", said))["id"])


async def _choose(site: Site, number: int, **more: object) -> Any:
    return await _call(site, "PUT", f"/pools/{site.sample.pool.id}", {"template_id": number} | more)


async def _refused(site: Site, said: object) -> str:
    return str((await _call(site, "PUT", f"/pools/{site.sample.pool.id}", said, 400))["details"])


async def _script(site: Site, number: int) -> tuple[str, str]:
    """The name of a new machine, and what it is given to run."""
    machine = await site.sample.instance(number)
    for phase in (Phase.ACCEPTED, Phase.STARTED):
        await site.store.instances.record_phase(PhaseFact("host-1", machine.id, phase, site.sample.clock()))
    answer = await site.call("GET", "/metadata/install-script", machine)
    assert answer.status_code == 200
    return machine.name, answer.text


async def test_machines_run_the_script_of_the_template_that_their_pool_names(site: Site) -> None:
    _, ours = await _script(site, 1)
    assert "this is" not in ours
    mine = await _template(site)
    pool = await _choose(site, mine)
    assert (pool["template_id"], pool["template_name"], pool["generation"]) == (mine, "mine", 1)
    name, script = await _script(site, 2)
    assert script == f"#!/bin/sh\necho this is '{name}'\n"
    await _choose(site, 0)
    name, script = await _script(site, 3)
    assert "this is" not in script


async def test_a_new_text_is_that_of_the_next_machine_and_dates_the_others(site: Site) -> None:
    mine = await _template(site)
    await _choose(site, mine)
    await _call(site, "PUT", f"/templates/{mine}", {"description": "no new text"})
    path = f"/pools/{site.sample.pool.id}"
    assert (await _call(site, "GET", path))["generation"] == 1
    await _call(site, "PUT", f"/templates/{mine}", {"data": _b64("#!/bin/sh\necho other\n")})
    assert (await _call(site, "GET", path))["generation"] == 2
    assert (await _script(site, 1))[1] == "#!/bin/sh\necho other\n"


async def test_a_pool_that_rests_is_tried_again_when_its_template_is_mended(site: Site) -> None:
    mine = await _template(site)
    await _choose(site, mine)
    machine = await site.sample.instance()
    await site.store.instances.retire(machine.id, "the script failed", failed=True)
    assert (await site.store.catalog.pool(machine.pool_id)).cool_until is not None
    await _call(site, "PUT", f"/templates/{mine}", {"data": _b64("#!/bin/sh\necho mended\n")})
    assert (await site.store.catalog.pool(machine.pool_id)).cool_until is None


async def test_what_comes_with_hostler_is_what_a_pool_has_that_names_none(site: Site) -> None:
    path = f"/repositories/{site.sample.entity_id}/pools"
    said = {"provider_name": "cloud", "image": "i", "flavor": "f", "tags": ["x"]}
    made = await _call(site, "POST", path, said | {"os_type": "windows"})
    assert (made["template_id"], made["template_name"]) == (2, "github_windows")
    same = await _call(site, "PUT", f"{path}/{made['id']}", {"template_id": 2})
    assert same["generation"] == 0
    assert (await _call(site, "POST", path, said | {"template_id": 1}))["template_name"] == "github_linux"
    assert {(one.forge.value, one.os_type) for one in SYSTEM} == {
        (forge, os_type) for forge, systems in SYSTEMS.items() if forge != "forgejo" for os_type in systems
    }
    assert all(one.number < FIRST_OWN for one in SYSTEM)


async def test_a_template_of_another_forge_or_system_is_refused(site: Site) -> None:
    tea, windows, mine = (
        await _template(site, "tea", forge="gitea"),
        await _template(site, "windows", os_type="windows"),
        await _template(site),
    )
    assert "of gitea on linux, and not of github on linux" in await _refused(site, {"template_id": tea})
    assert "of github on windows, and not of github on linux" in await _refused(site, {"template_id": windows})
    assert "'gitea_linux' is not for runners" in await _refused(site, {"template_id": 3})
    for number in (7, 2**80, -1):
        assert "there is no template" in await _refused(site, {"template_id": number})
    await _choose(site, mine)
    assert "of github on linux, and not of github on windows" in await _refused(site, {"os_type": "windows"})
    changed = await _choose(site, windows, os_type="windows")
    assert (changed["os_type"], changed["template_name"]) == ("windows", "windows")


async def test_a_template_that_is_named_cannot_be_removed(site: Site) -> None:
    mine = await _template(site)
    scale_sets = f"/repositories/{site.sample.entity_id}/scalesets"
    made = await _call(site, "POST", scale_sets, SCALE_SET | {"template_id": mine})
    assert (made["template_id"], made["template_name"]) == (mine, "mine")
    assert "has scale sets: gpu" in (await _call(site, "DELETE", f"/templates/{mine}", status=400))["details"]
    changed = await _call(site, "PUT", "/scalesets/1", {"template_id": 1})
    assert (changed["template_name"], changed["generation"]) == ("github_linux", 1)
    await _choose(site, mine)
    assert "has pools: linux" in (await _call(site, "DELETE", f"/templates/{mine}", status=400))["details"]
    await _choose(site, 1)
    await _call(site, "DELETE", f"/templates/{mine}")


async def test_a_document_names_a_template_that_is_there(site: Site) -> None:
    with pytest.raises(UnknownReference, match="there is no template 'mine', which 'linux' names"):
        await site.sample.apply(NAMED)
    mine = await _template(site)
    assert await site.sample.apply(NAMED) == ["pool linux: updated (template)"]
    assert await site.sample.apply(NAMED) == []
    assert (await _call(site, "GET", f"/pools/{site.sample.pool.id}"))["template_id"] == mine
    (pool,) = (await site.store.catalog.declared())["pool"].values()
    assert getattr(pool, "template") == "mine"  # noqa: B009 (declarations are of many kinds)
    with pytest.raises(Clash, match="is for runners of github on linux, and not of github on windows"):
        await site.sample.apply(NAMED + 'os_type = "windows"\n')
    with pytest.raises(UnknownReference, match="comes with Hostler"):
        await site.sample.apply(NAMED.replace('"mine"', '"github_linux"'))
    assert await site.sample.apply(DOCUMENT) == ["pool linux: updated (template)"]
