"""The EC2 provider as its callers start it, against moto's server."""

import asyncio
import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import msgspec
import pytest

from providers.contract import Arch
from providers.exec import (
    CloudSpec,
    ExecProvider,
    ExecSettings,
    InstanceExists,
    InstanceNotFound,
    ProviderCommandFailed,
    Tool,
)
from providers.exec.check import PoolSpecs, Verdict, check
from tests.samples.fake_ec2 import FakeEc2, served

REGION = "eu-central-1"
POOL = "pool-1"
WRAPPER = base64.b64encode(b"#!/bin/sh\necho hello\n").decode()


class World:
    def __init__(self, fake: FakeEc2, url: str, directory: Path) -> None:
        self.fake = fake
        self.ec2: Any = boto3.client(
            "ec2", region_name=REGION, endpoint_url=url, aws_access_key_id="test", aws_secret_access_key="test"
        )
        vpc = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        cidrs = ("10.0.1.0/24", "10.0.2.0/24")
        self.subnets = [self.ec2.create_subnet(VpcId=vpc, CidrBlock=one)["Subnet"]["SubnetId"] for one in cidrs]
        self.image = self.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        self.config = directory / "ec2.toml"
        self.config.write_text(f'region = "{REGION}"\nendpoint_url = "{url}"\nsubnets = {self.subnets}\n')

    def provider(self, version: str = "v0.1.0", controller: str = "controller-1") -> ExecProvider:
        return ExecProvider(self.settings(version), controller)

    def settings(self, version: str = "v0.1.0") -> ExecSettings:
        return ExecSettings(
            name="ec2",
            executable=str(Path(sys.executable).with_name("hostler-provider-ec2")),
            config_file=str(self.config),
            interface_version=version,  # type: ignore[arg-type]
            environment=("AWS_",),
            timeout_seconds=60,
        )

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

    def alive(self) -> list[dict[str, Any]]:
        found = [one for page in self.ec2.describe_instances()["Reservations"] for one in page["Instances"]]
        return [one for one in found if one["State"]["Name"] not in ("shutting-down", "terminated")]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    fake = FakeEc2()
    with served(fake) as url:
        yield World(fake, url, tmp_path)
        urlopen(Request(f"{url}/moto-api/reset", method="POST")).close()  # noqa: S310 (our own)


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
    found = {one.subject: one for one in await check(world.settings("v0.1.1"), "controller-1", pools)}
    bad = found.pop("extra_specs of pool bad")
    assert bad.verdict is Verdict.PROBLEM
    assert "knows no spto" in bad.detail
    assert "disk_gib" in bad.detail
    assert found.pop("opinion of pool bad").verdict is Verdict.UNKNOWN
    assert {one.verdict for one in found.values()} == {Verdict.OK}
