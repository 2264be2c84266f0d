"""What provider executables are told of a machine, and what becomes of those whose provider is configured no more."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import AsyncMock, MagicMock

import pytest
import sqlalchemy as sa

from coordinator.domain.instance import RunnerStatus, Status
from coordinator.engine.circuits import Circuits
from coordinator.engine.cloud import CloudExecutor
from coordinator.runner_api import scripts
from coordinator.store.schema import instances
from coordinator.tokens import InstanceTokens
from providers.exec.spec import CloudInstance, CloudSpec, ProxyConfig, Tool
from tests.samples.forges import ca_certificate
from tests.samples.store import DOCUMENT, Sample, open_sample

REASON = "provider 'cloud' is not configured any more: put its [[provider]] back"


@pytest.fixture
async def sample(tmp_path: Path) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path) as opened:
        await opened.apply(DOCUMENT.replace('provider = "libvirt"', 'provider = "cloud"'))
        await opened.look()
        yield opened


async def _told(sample: Sample, pool: str) -> CloudSpec:
    """What the executable gets for a machine of the one pool, with these lines more in its table."""
    await sample.apply(DOCUMENT.replace('provider = "libvirt"', f'provider = "cloud"\n{pool}'))
    await sample.look()
    made = await sample.instance()
    cloud = MagicMock(settings=MagicMock(appear_seconds=0))
    cloud.create = AsyncMock(return_value=CloudInstance(provider_id="i-1", name=made.name, status="running"))
    forges = MagicMock()
    forges.tools = AsyncMock(return_value=[Tool("linux", "x64", "https://d/l"), Tool("win", "x64", "https://d/w")])
    tokens = InstanceTokens(sample.store.instance_token_key, sample.clock)
    circuits = Circuits(sample.clock, lambda: 0.5)
    where = scripts.urls("http://c.example")
    executor = CloudExecutor(sample.store, forges, {"cloud": cloud}, tokens, where, sample.clock, circuits)
    await executor.create(made, await sample.store.catalog.pool(made.pool_id))
    spec: CloudSpec = cloud.create.await_args.args[0]
    spec.check()
    return spec


@pytest.mark.parametrize(
    ("os_type", "begins", "fetches"),
    [("linux", "#!/bin/sh\n", '"$metadata/install-script"'), ("windows", "#ps1_sysnative\n", "Invoke-WebRequest")],
)
async def test_machines_get_the_user_data_of_their_system(
    sample: Sample, os_type: str, begins: str, fetches: str
) -> None:
    spec = await _told(sample, f'os_type = "{os_type}"')
    assert spec.os_type == os_type
    assert isinstance(spec.extra_specs, dict)
    script = base64.b64decode(spec.extra_specs["runner_install_template"]).decode()
    assert script.startswith(begins)
    assert fetches in script
    assert script.count(spec.instance_token) == 1
    assert "{{" not in script  # it is taken for a template


async def test_a_pools_own_user_data_is_left_as_it_is(sample: Sample) -> None:
    spec = await _told(sample, 'extra_specs = { runner_install_template = "b3du", disk = 40 }')
    assert spec.extra_specs == {"runner_install_template": "b3du", "disk": 40}


async def test_a_provider_is_told_the_pools_proxy_and_whom_machines_are_to_trust(sample: Sample) -> None:
    await sample.apply(
        '[[proxy]]\nname = "out"\nhttps_proxy = "http://proxy.example:3128"\nno_proxy = "c.example"\n'
        'username = "ada"\npassword = "hush"\n'
    )
    await sample.store.settings.change({"ca_bundle": ca_certificate()})
    spec = await _told(sample, 'proxy = "out"')
    assert spec.proxy_config == ProxyConfig(https_proxy="http://ada:hush@proxy.example:3128", no_proxy="c.example")
    assert spec.ca_cert_bundle == ca_certificate().encode()
    assert isinstance(spec.extra_specs, dict)
    script = base64.b64decode(spec.extra_specs["runner_install_template"]).decode()
    assert "export HTTPS_PROXY='http://ada:hush@proxy.example:3128'" in script


async def test_a_provider_of_a_pool_without_one_is_told_none(sample: Sample) -> None:
    spec = await _told(sample, "")
    assert (spec.proxy_config, spec.ca_cert_bundle) == (ProxyConfig(), None)


def test_what_looks_like_a_template_of_go_becomes_what_it_was() -> None:
    text = base64.b64decode(scripts.for_provider_library("a {{ b }} ${{ c }}")).decode()
    # text/template prints the string constant of an action.
    assert text.replace('{{"{{"}}', "\0").replace("\0", "{{") == "a {{ b }} ${{ c }}"
    assert text.count('{{"{{"}}') == text.count("{{") / 2


@pytest.mark.parametrize(
    ("status", "runner_status", "becomes", "fault"),
    [
        (Status.PENDING_CREATE, RunnerStatus.PENDING, Status.DELETED, ""),  # there is no machine
        (Status.CREATING, RunnerStatus.PENDING, Status.PENDING_DELETE, REASON),  # there may be one
        (Status.CREATING, RunnerStatus.INSTALLING, Status.CREATING, ""),  # there is one, and it has called
        (Status.RUNNING, RunnerStatus.ACTIVE, Status.RUNNING, ""),
        (Status.PENDING_DELETE, RunnerStatus.TERMINATED, Status.PENDING_DELETE, REASON),
        (Status.DELETING, RunnerStatus.TERMINATED, Status.DELETING, REASON),
        (Status.PENDING_FORCE_DELETE, RunnerStatus.TERMINATED, Status.DELETED, ""),
    ],
)
async def test_what_becomes_of_an_instance_without_its_provider(
    sample: Sample, status: Status, runner_status: RunnerStatus, becomes: Status, fault: str
) -> None:
    made = await sample.instance()
    async with sample.store._database.write() as connection:
        values = {"status": status, "runner_status": runner_status, "host": ""}
        await connection.execute(sa.update(instances).where(instances.c.id == made.id).values(**values))
    tokens = InstanceTokens(sample.store.instance_token_key, sample.clock)
    circuits = Circuits(sample.clock, lambda: 0.5)
    where = scripts.urls("http://c.example")
    cloud = CloudExecutor(sample.store, MagicMock(), {}, tokens, where, sample.clock, circuits)
    await cloud.miss(await sample.now(made))
    now = await sample.now(made)
    assert (now.status, now.fault) == (becomes, fault)
    if now.status is not Status.DELETED:
        await cloud.miss(now)  # said once, also when it is looked at again
        assert await sample.now(made) == now
