"""Install templates, proxies and scale sets as a document declares them, and what is told of one that cannot be."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from unittest.mock import AsyncMock, MagicMock

import grpc
import pytest
import sqlalchemy as sa

from coordinator.admin import AdminService
from coordinator.exporting import exported
from coordinator.store.schema import credentials, pools, proxies, templates
from coordinator.store.sealing import SealBroken
from coordinator.store.store import Store
from coordinator.store.writing import Clash, UnknownReference
from protos.hostler.v1 import admin_pb2 as pb
from tests.samples.store import DOCUMENT, Sample, open_sample

TEMPLATE: Final = '[[template]]\nname = "mine"\ndata = "#!/bin/sh\\necho {{ runner_name | sh }}\\n"\n'
PROXY: Final = '[[proxy]]\nname = "out"\nhttp_proxy = "http://proxy.example:3128"\nusername = "builder"\n'
SCALE_SET: Final = """
[[scale_set]]
name = "gpu"
endpoint = "forge"
repository = "octo/widgets"
provider = "libvirt"
image = "debian"
flavor = "small"
labels = ["gpu"]
template = "mine"
"""
EVERYTHING: Final = DOCUMENT + 'template = "mine"\n' + TEMPLATE + PROXY + 'password = "hush"\n' + SCALE_SET


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


async def _column(store: Store, column: sa.Column[object]) -> object:
    async with store._database.read() as connection:
        return (await connection.execute(sa.select(column))).scalar_one()


async def test_they_are_made_after_what_they_refer_to_and_stay_as_they_are(sample: Sample) -> None:
    assert await sample.apply(EVERYTHING) == [
        "template mine: created",
        "proxy out: created",
        "pool linux: updated (template)",
        "scale set gpu: created",
    ]
    assert await sample.apply(EVERYTHING) == []
    assert await sample.apply(EVERYTHING.replace("echo", "printf")) == ["template mine: updated (data)"]
    assert await _column(sample.store, pools.c.generation) == 2, "for a template, and for its new text"


async def test_a_change_leaves_the_numbers_that_clients_know(sample: Sample) -> None:
    await sample.apply(EVERYTHING)
    before = await sample.store.edits.scale_sets(), await sample.store.edits.proxies()
    changed = EVERYTHING.replace("gpu", "GPU").replace('name = "GPU"', 'name = "gpu"').replace("3128", "8080")
    changed += "max_runners = 9\n"
    assert await sample.apply(changed) == ["proxy out: updated (http_proxy)", "scale set gpu: updated (max_runners)"]
    after = await sample.store.edits.scale_sets(), await sample.store.edits.proxies()
    assert [[one.number for one in found] for found in before] == [[one.number for one in found] for found in after]


async def test_an_export_has_the_text_and_no_password_and_changes_nothing(sample: Sample) -> None:
    await sample.apply(EVERYTHING)
    document = exported(await sample.store.catalog.declared())
    assert 'data = """\n#!/bin/sh\necho {{ runner_name | sh }}\n"""' in document
    assert "hush" not in document
    assert '# password_file = "FILE"' in document
    assert (await sample.plan(document, prune=True)).lines == []


async def test_a_plan_says_how_long_a_text_is_and_not_what_it_holds(sample: Sample) -> None:
    await sample.apply(EVERYTHING)
    (step,) = (await sample.plan(EVERYTHING.replace("echo", "secret"), dry_run=True)).changing
    (difference,) = step.differences
    assert (difference.before[:16], difference.after[:16]) == ('"2 lines, sha256', '"2 lines, sha256')
    assert difference.before != difference.after


async def test_pruning_removes_them_before_what_they_refer_to(sample: Sample) -> None:
    await sample.apply(EVERYTHING)
    with pytest.raises(Exception, match="the template 'mine' has pools: linux"):
        await sample.plan(EVERYTHING.replace(TEMPLATE, ""), prune=True)
    assert (await sample.plan(DOCUMENT, prune=True)).lines == [
        "pool linux: updated (template)",
        "scale set gpu: removed",
        "proxy out: removed",
        "template mine: removed",
    ]


async def test_a_flavor_stays_that_a_scale_set_names(sample: Sample) -> None:
    large = '[[flavor]]\nname = "large"\nvcpus = 8\nmemory_mib = 9000\ndisk_gib = 90\n'
    named = EVERYTHING.replace('flavor = "small"\nlabels = ["gpu"]', 'flavor = "large"\nlabels = ["gpu"]')
    await sample.apply(named + large)
    with pytest.raises(Exception, match="'large' is named by scale sets that stay: gpu"):
        await sample.plan(named, prune=True)


async def test_a_password_that_is_left_out_stays_and_an_empty_one_is_none(sample: Sample) -> None:
    await sample.apply(EVERYTHING)
    assert await sample.apply(PROXY) == []
    assert await _column(sample.store, proxies.c.password) is not None
    assert await sample.apply(PROXY + 'password = ""') == ["proxy out: updated (password)"]
    assert await _column(sample.store, proxies.c.password) is None


async def test_a_template_stays_with_its_forge_and_system(sample: Sample) -> None:
    await sample.apply(TEMPLATE)
    with pytest.raises(Clash, match="is for runners of github on linux, and stays so"):
        await sample.apply(TEMPLATE + 'os_type = "windows"\n')


async def test_nobodys_secret_is_opened_but_those_that_a_document_gives(sample: Sample) -> None:
    """One that cannot be opened, of a key that was lost, is in nobody's way but when it is to be compared."""
    async with sample.store._database.write() as connection:
        await connection.execute(sa.update(credentials).values(token=b"damaged"))
    assert await sample.apply(PROXY) == ["proxy out: created"]
    with pytest.raises(SealBroken):
        await sample.apply(DOCUMENT)


async def _refused(sample: Sample, document: str) -> str:
    providers = MagicMock(names=frozenset({"cloud"}))
    service = AdminService(sample.store, MagicMock(), MagicMock(), MagicMock(), providers, MagicMock())
    context = MagicMock(abort=AsyncMock(side_effect=LookupError))
    with pytest.raises(LookupError):
        await service.Apply(pb.ApplyRequest(document=document), context)
    code, reason = context.abort.await_args.args
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    return str(reason)


async def test_a_template_is_tried_before_it_is_kept(sample: Sample) -> None:
    bad = TEMPLATE + '[[template]]\nname = "bad"\ndata = "#!/bin/sh\\nif {{ nothing }}\\n"\n'
    assert (await _refused(sample, bad)).startswith("document: key 'template[1].data': the template uses nothing")
    assert "bash cannot read" in await _refused(sample, bad.replace("{{ nothing }}", "true"))
    async with sample.store._database.read() as connection:
        assert (await connection.execute(sa.select(templates))).first() is None


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            '[[endpoint]]\nname = "two"\nbase_url = "https://FORGE.example"\n',
            "key 'endpoint[0]': endpoint 'two': the base",
        ),
        (PROXY + SCALE_SET, "key 'scale_set[0]': there is no template 'mine', which 'gpu' names"),
        (TEMPLATE + TEMPLATE, "key 'template[1]': template mine is declared twice"),
    ],
)
async def test_what_clashes_is_told_by_its_place_in_the_document(sample: Sample, said: str, told: str) -> None:
    assert (await _refused(sample, said)).startswith(f"document: {told}")


async def test_who_names_what_is_not_there_is_told_to_declare_it(sample: Sample) -> None:
    with pytest.raises(UnknownReference, match=r"declare it in a \[\[template\]\] table"):
        await sample.apply(SCALE_SET)
