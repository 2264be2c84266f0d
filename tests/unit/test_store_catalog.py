"""Declaring endpoints, credentials, repositories, flavors and pools: all or nothing, and the same twice is nothing."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from coordinator.store.writing import Clash, UnknownReference
from hostler.errors import HostlerError
from hostler.network import NetworkAccess, NetworkPolicy
from tests.samples.store import DOCUMENT, FORGE_TOKEN, WEBHOOK_SECRET, Sample, open_sample


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


async def test_applying_the_same_again_changes_nothing(sample: Sample) -> None:
    assert await sample.apply(DOCUMENT) == []
    assert await sample.apply("") == []
    assert len(await sample.store.catalog.pools()) == 1


async def test_an_update_says_what_it_changed(sample: Sample) -> None:
    changed = DOCUMENT.replace("max_runners = 3", "max_runners = 9\npriority = 2").replace(FORGE_TOKEN, "another-token")
    assert await sample.apply(changed) == [
        "credentials token: updated (token)",
        "pool linux: updated (max_runners, priority)",
    ]
    pool = (await sample.store.catalog.pools())[0]
    assert (pool.id, pool.max_runners, pool.priority) == (sample.pool.id, 9, 2)


async def test_credentials_are_listed_with_their_endpoints_limit_and_without_their_secrets(sample: Sample) -> None:
    (only,) = await sample.store.catalog.credentials()
    assert (only.name, only.endpoint_id, only.registrations_per_minute) == ("token", sample.endpoint_id, 0)
    assert FORGE_TOKEN not in repr(only)
    await sample.apply(DOCUMENT.replace("[[credentials]]", "registrations_per_minute = 90\n\n[[credentials]]"))
    assert await sample.store.catalog.credentials() == [msgspec.structs.replace(only, registrations_per_minute=90)]


async def test_a_renewed_secret_is_in_force_at_once(sample: Sample) -> None:
    catalog = sample.store.catalog
    owner = await catalog.repository("https://forge.example", "octo", "widgets")
    assert owner is not None
    assert owner.secret == WEBHOOK_SECRET.encode()
    assert (await catalog.forge_access(sample.entity_id)).token == FORGE_TOKEN
    await sample.apply(DOCUMENT.replace(WEBHOOK_SECRET, "b" * 20).replace(FORGE_TOKEN, "new"))
    owner = await catalog.repository("https://forge.example", "octo", "widgets")
    assert owner is not None
    assert owner.secret == b"b" * 20
    assert (await catalog.forge_access(sample.entity_id)).token == "new"


async def test_a_repository_is_known_in_any_spelling(sample: Sample) -> None:
    catalog = sample.store.catalog
    for base_url, owner, name in [
        ("https://forge.example", "Octo", "Widgets"),
        ("HTTPS://FORGE.example", "OCTO", "widgets"),
    ]:
        found = await catalog.repository(base_url, owner, name)
        assert found is not None
        assert found.entity.id == sample.entity_id
    assert await catalog.repository("https://other.example", "Octo", "Widgets") is None
    assert await catalog.repository("https://forge.example", "Octo", "widget_") is None


async def test_the_same_repository_in_another_spelling_is_not_declared_twice(sample: Sample) -> None:
    other = DOCUMENT.replace('owner = "Octo"', 'owner = "OCTO"').replace('"Octo/Widgets"', '"octo/WIDGETS"')
    assert await sample.apply(other) == []
    assert [entity.full_name for entity in await sample.store.catalog.entities()] == ["Octo/Widgets"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('[[flavor]]\nname = "small"', '[[flavor]]\nname = "big"', "there is no flavor 'huge', which pool 'other'"),
        ('credentials = "token"', 'credentials = "lost"', "there is no credentials 'lost'"),
        ('endpoint = "forge"\nowner', 'endpoint = "elsewhere"\nowner', "there is no endpoint 'elsewhere'"),
        ('repository = "Octo/Widgets"', 'repository = "Octo/Gadgets"', "there is no repository 'Octo/Gadgets'"),
    ],
)
async def test_a_reference_to_nothing_is_refused_and_nothing_is_done(
    sample: Sample, old: str, new: str, reason: str
) -> None:
    document = DOCUMENT.replace("vcpus = 2", "vcpus = 4").replace(FORGE_TOKEN, "another").replace(old, new)
    if "huge" in reason:
        document = document.replace('name = "linux"', 'name = "other"').replace('flavor = "small"', 'flavor = "huge"')
    before = await _everything(sample)
    with pytest.raises(UnknownReference, match=reason) as caught:
        await sample.apply(document)
    assert "declare it in a [[" in str(caught.value)
    assert await _everything(sample) == before


async def _everything(sample: Sample) -> list[object]:
    catalog = sample.store.catalog
    return [
        await catalog.pools(),
        await catalog.entities(),
        await catalog.forge_access(sample.entity_id),
        await catalog.repository("https://forge.example", "Octo", "Widgets"),
    ]


async def test_credentials_of_another_endpoint_do_not_fit_a_repository(sample: Sample) -> None:
    more = (
        '[[endpoint]]\nname = "two"\nbase_url = "https://two.example"\n'
        '[[repository]]\nendpoint = "two"\nowner = "o"\nname = "n"\ncredentials = "token"\n'
        'webhook_secret = "1234567890123456"'
    )
    with pytest.raises(UnknownReference, match="there is no credentials 'token' of its endpoint"):
        await sample.apply(more)


async def test_credentials_do_not_move_to_another_endpoint(sample: Sample) -> None:
    more = (
        '[[endpoint]]\nname = "two"\nbase_url = "https://two.example"\n'
        '[[credentials]]\nname = "token"\nendpoint = "two"\ntoken = "x"'
    )
    with pytest.raises(Clash, match="the credentials 'token' are of another endpoint"):
        await sample.apply(more)
    assert (await sample.store.catalog.forge_access(sample.entity_id)).token == FORGE_TOKEN


@pytest.mark.parametrize("base_url", ["https://forge.example", "https://FORGE.example"])
async def test_two_endpoints_with_one_address_clash(sample: Sample, base_url: str) -> None:
    with pytest.raises(HostlerError, match=r"endpoint 'twin': the base_url .* is that of endpoint 'forge'"):
        await sample.apply(f'[[endpoint]]\nname = "twin"\nbase_url = "{base_url}"')
    with pytest.raises(Clash):
        await sample.apply(
            '[[endpoint]]\nname = "a"\nbase_url = "https://a.example"\n'
            '[[endpoint]]\nname = "b"\nbase_url = "https://a.example"'
        )
    assert await sample.apply(DOCUMENT) == []


async def test_a_cloud_knows_its_flavors_itself(sample: Sample) -> None:
    document = (
        '[[pool]]\nname = "cloudy"\nendpoint = "forge"\nrepository = "Octo/Widgets"\nprovider = "cloud"\n'
        'image = "ami-1"\nflavor = "m9.huge"\nlabels = ["GPU"]\n[pool.extra_specs]\nzone = "b"\n'
    )
    assert await sample.apply(document) == ["pool cloudy: created"]
    pool = next(pool for pool in await sample.store.catalog.pools() if pool.name == "cloudy")
    assert (pool.flavor.name, pool.labels, pool.resources.vcpus) == ("m9.huge", frozenset({"gpu"}), 0)
    assert msgspec.json.decode(pool.extra_specs) == {"zone": "b"}


FLAVOR = '[[flavor]]\nname = "gpu"\nvcpus = 1\nmemory_mib = 64\ndisk_gib = 1\n'
POOL = (
    '[[pool]]\nname = "gpus"\nendpoint = "forge"\nrepository = "Octo/Widgets"\nprovider = "{}"\n'
    'image = "debian"\nflavor = "gpu"\nlabels = ["gpu"]\n'
)


async def test_a_flavors_devices_are_kept_and_gone_when_they_are_left_out(sample: Sample) -> None:
    await sample.apply(FLAVOR + "devices = { gpu = 1, fpga = 2 }\n" + POOL.format("libvirt"))
    (pool,) = [one for one in await sample.store.catalog.pools() if one.name == "gpus"]
    assert pool.resources.devices == (("fpga", 2), ("gpu", 1))
    assert await sample.apply(FLAVOR) == ["flavor gpu: updated (devices)"]
    (later,) = [one for one in await sample.store.catalog.pools() if one.name == "gpus"]
    assert (later.resources.devices, later.generation) == ((), pool.generation + 1)


async def test_a_cloud_is_asked_for_no_devices_of_our_hosts(sample: Sample) -> None:
    with pytest.raises(Clash, match="devices of flavor 'gpu' are those of our own hosts, and 'cloud' has none"):
        await sample.apply(FLAVOR + "devices = { gpu = 1 }\n" + POOL.format("cloud"))


async def test_a_flavor_that_changes_makes_its_pools_machines_of_another_making(sample: Sample) -> None:
    pool = (
        '\n[[pool]]\nname = "{}"\nendpoint = "forge"\nrepository = "Octo/Widgets"\nprovider = "{}"\n'
        'image = "debian"\nflavor = "{}"\nlabels = ["x"]'
    )
    large = '\n[[flavor]]\nname = "large"\nvcpus = 4\nmemory_mib = 8192\ndisk_gib = 10'
    await sample.apply(DOCUMENT + large + pool.format("larger", "lxd", "large") + pool.format("far", "cloud", "small"))
    before = {pool.name: pool.generation for pool in await sample.store.catalog.pools()}
    assert await sample.apply(DOCUMENT.replace("memory_mib = 2048", "memory_mib = 4096")) == [
        "flavor small: updated (memory_mib)"
    ]
    after = {pool.name: pool.generation for pool in await sample.store.catalog.pools()}
    assert after == before | {"linux": before["linux"] + 1}


async def test_no_repr_shows_a_secret(sample: Sample) -> None:
    access = await sample.store.catalog.forge_access(sample.entity_id)
    owner = await sample.store.catalog.repository("https://forge.example", "Octo", "Widgets")
    assert FORGE_TOKEN not in repr(access)
    assert WEBHOOK_SECRET not in repr(owner)


async def test_what_a_pools_machines_may_reach_makes_other_machines(sample: Sample) -> None:
    before = (await sample.store.catalog.pools())[0]
    assert before.network == NetworkAccess(NetworkPolicy.INTERNET)
    strict = DOCUMENT.replace("max_runners = 3", 'network_policy = "strict"\nnetwork_allow = ["dns", "10.0.0.0/8:443"]')
    assert await sample.apply(strict) == ["pool linux: updated (max_runners, network_policy, network_allow)"]
    after = (await sample.store.catalog.pools())[0]
    assert after.network == NetworkAccess(NetworkPolicy.STRICT, ("dns", "10.0.0.0/8:443"))
    assert after.generation == before.generation + 1


async def test_a_clouds_pool_cannot_be_promised_what_only_our_hosts_keep(sample: Sample) -> None:
    cloud = DOCUMENT.replace('provider = "libvirt"', 'provider = "cloud"\nnetwork_policy = "strict"')
    with pytest.raises(Clash, match="'cloud' keeps no network_policy"):
        await sample.apply(cloud)
