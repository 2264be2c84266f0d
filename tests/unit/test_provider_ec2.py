"""The EC2 provider as its callers start it, against moto's server."""

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from providers.contract import Arch
from providers.ec2 import EXTRA_SPECS_SCHEMA, Refused, checked
from providers.exec import (
    CloudSpec,
    ExecProvider,
    InstanceExists,
    InstanceNotFound,
    ProviderCommandFailed,
    Tool,
)
from providers.exec.check import PoolSpecs, Verdict, check
from tests.samples.ec2_account import Account
from tests.samples.fake_ec2 import FakeEc2, served

POOL = "pool-1"
WRAPPER = base64.b64encode(b"#!/bin/sh\necho hello\n").decode()


class World(Account):
    def __init__(self, fake: FakeEc2, url: str, directory: Path) -> None:
        super().__init__(url, directory)
        self.fake = fake

    def provider(self, version: str = "v0.1.0", controller: str = "controller-1") -> ExecProvider:
        return ExecProvider(self.settings(version=version), controller)

    def spec(self, name: str = "runner-1", **extra_specs: Any) -> CloudSpec:
        return CloudSpec(
            name=name,
            tools=(Tool(os="linux", architecture="x64"),),
            repo_url="https://forge.example/o/r",
            callback_url="https://hostler.example/api/v1/callbacks",
            metadata_url="https://hostler.example/api/v1/metadata",
            instance_token="token",
            extra_specs={"runner_install_template": WRAPPER, **extra_specs},
            arch=Arch.AMD64,
            flavor="m5.large",
            image=self.image,
            pool_id=POOL,
        )


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    fake = FakeEc2()
    with served(fake) as url:
        one = World(fake, url, tmp_path)
        yield one
        one.reset()


@pytest.mark.parametrize("version", ["v0.1.0", "v0.1.1"])
async def test_an_instance_lives_its_whole_life(world: World, version: str) -> None:
    provider = world.provider(version)
    made = await provider.create(world.spec(), clean_up=False)
    (there,) = world.alive()
    tags = {tag["Key"]: tag["Value"] for tag in there["Tags"]}
    assert (tags["Name"], tags["GARM_POOL_ID"], tags["GARM_CONTROLLER_ID"]) == ("runner-1", POOL, "controller-1")
    assert (made.provider_id, made.name, made.status) == (there["InstanceId"], "runner-1", "running")
    told = world.ec2.describe_instance_attribute(InstanceId=made.provider_id, Attribute="userData")
    assert base64.b64decode(told["UserData"]["Value"]) == base64.b64decode(WRAPPER)
    assert [one.provider_id for one in await provider.list(POOL, None)] == [made.provider_id]
    assert await provider.list("another pool", None) == []
    assert await world.provider(version, "another controller").list(POOL, None) == []
    await provider.stop("runner-1", POOL, None)
    assert (await provider.get(made.provider_id, POOL, None)).status == "stopped"
    await provider.start(made.provider_id, POOL, None)
    assert (await provider.get("runner-1", POOL, None)).status == "running"
    await provider.delete("runner-1", POOL, None)
    await provider.delete("runner-1", POOL, None)  # absent already: fine
    assert world.alive() == []
    assert await provider.list(POOL, None) == []
    with pytest.raises(InstanceNotFound):
        await provider.get("runner-1", POOL, None)


async def test_a_subnet_without_room_is_followed_by_the_next(world: World) -> None:
    first, second = world.subnets
    world.fake.full = lambda _market, _kind, subnet: "InsufficientInstanceCapacity" if subnet == first else ""
    await world.provider().create(world.spec())
    assert [one["SubnetId"] for one in world.alive()] == [second]


async def test_spot_comes_first_then_other_types_and_on_demand_last(world: World) -> None:
    first, second = world.subnets
    world.fake.full = lambda market, *_: "MaxSpotInstanceCountExceeded" if market == "spot" else ""
    await world.provider().create(world.spec(spot="first", instance_types=["m5a.large"]))
    tried = list(dict.fromkeys(world.fake.asked))
    assert tried == [
        ("spot", "m5.large", first),
        ("spot", "m5.large", second),
        ("spot", "m5a.large", first),
        ("spot", "m5a.large", second),
        ("on-demand", "m5.large", first),
    ]
    assert len(set(world.fake.tokens)) == len(tried)  # a repeated request of a place bears the same token


async def test_without_room_anywhere_every_place_is_told(world: World) -> None:
    world.fake.full = lambda *_: "InsufficientInstanceCapacity"
    with pytest.raises(ProviderCommandFailed) as failed:
        await world.provider().create(world.spec())
    assert all(subnet in failed.value.stderr for subnet in world.subnets)
    assert world.alive() == []


async def test_a_request_that_is_wrong_everywhere_is_tried_once(world: World) -> None:
    world.fake.full = lambda *_: "InvalidParameterValue"
    with pytest.raises(ProviderCommandFailed, match="InvalidParameterValue"):
        await world.provider().create(world.spec())
    assert len(world.fake.asked) == 1


async def test_one_killed_before_it_has_its_answer_leaks_nothing(world: World) -> None:
    world.fake.answers.clear()
    making = asyncio.create_task(world.provider().create(world.spec()))
    assert await asyncio.to_thread(world.fake.made.wait, 30)
    making.cancel()  # kills its process group
    with pytest.raises(asyncio.CancelledError):
        await making
    world.fake.answers.set()
    (there,) = world.alive()
    provider = world.provider()
    with pytest.raises(InstanceExists):  # asked again it makes no second one
        await provider.create(world.spec())
    assert [one.provider_id for one in await provider.list(POOL, None)] == [there["InstanceId"]]
    await provider.delete("runner-1", POOL, None)
    assert world.alive() == []


@pytest.mark.parametrize(
    ("specs", "reason"),
    [
        ({"disk_gib": "40"}, "disk_gib must be of type integer"),
        ({"disk_gib": True}, "disk_gib must be of type integer"),
        ({"disk_gib": 0}, "disk_gib must be 1 at least"),
        ({"spot": "sometimes"}, "spot must be one of never, first, only"),
        ({"spot": ["first"]}, "spot must be one of"),
        ({"subnets": []}, "subnets must not be empty"),
        ({"subnets": "subnet-1"}, "subnets must be of type array"),
        ({"instance_types": [7]}, "instance_types has an element that must be of type string"),
        ({"instance_types": [""]}, "instance_types has an element that must not be empty"),
        ({"security_groups": ["sg-1", "sg-1"]}, "security_groups names something twice"),
        ({"public_address": "yes"}, "public_address must be of type boolean"),
        ({"spto": "first"}, "unknown keys spto"),
    ],
)
def test_a_wrong_extra_spec_is_refused_before_anything_is_made(specs: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        checked({"runner_install_template": WRAPPER, **specs}, EXTRA_SPECS_SCHEMA, "extra_specs")


async def test_what_its_schema_allows_is_taken(world: World) -> None:
    specs: dict[str, Any] = {
        "spot": "first", "subnets": world.subnets[:1], "security_groups": [], "instance_types": ["m5a.large"],
        "disk_gib": 40, "public_address": False, "extra_context": {"a": [1]},
    }  # fmt: skip
    await world.provider().create(world.spec(**specs))
    with pytest.raises(ProviderCommandFailed, match="extra_specs: disk_gib must be of type integer"):
        await world.provider().create(world.spec("runner-2", disk_gib="40"))
    assert len(world.alive()) == 1


async def test_all_of_a_pool_are_removed_and_no_others(world: World) -> None:
    provider = world.provider("v0.1.1")
    await provider.create(world.spec("runner-1"))
    other = msgspec.structs.replace(world.spec("runner-2"), pool_id="pool-2")
    await provider.create(other)
    await provider.remove_all(POOL, None)
    assert [one["Tags"] for one in world.alive() if "runner-1" in str(one["Tags"])] == []
    assert len(world.alive()) == 1


async def test_its_schemas_find_what_is_wrong_before_anything_is_made(world: World) -> None:
    pools = [PoolSpecs("id-1", "good", {"spot": "first"}), PoolSpecs("id-2", "bad", {"spto": "first", "disk_gib": "x"})]
    found = {one.subject: one for one in await check(world.settings(version="v0.1.1"), "controller-1", pools)}
    bad = found.pop("extra_specs of pool bad")
    assert bad.verdict is Verdict.PROBLEM
    assert "knows no spto" in bad.detail
    assert "disk_gib" in bad.detail
    assert found.pop("opinion of pool bad").verdict is Verdict.UNKNOWN
    assert {one.verdict for one in found.values()} == {Verdict.OK}
