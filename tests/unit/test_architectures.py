"""An architecture's way: from what a provider offers to the host that the planner takes, and to the agent's refusal."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from agent import wire as agents
from coordinator.admin_images import HostUnsuitable, ImageAdmin
from coordinator.domain.fleet import Host, Placement
from coordinator.domain.images import Held, Image
from coordinator.domain.planner import plan, plan_on, why_waiting
from coordinator.domain.planning.board import Board
from coordinator.domain.resources import Resources
from coordinator.domain.world import Moment
from coordinator.fleet import wire
from coordinator.fleet.links import Links
from coordinator.runner_api.scripts import urls
from coordinator.store.hosts import HostRecord, Pressure
from hostler.images import ImageFormat
from hostler.network import NetworkAccess
from protos.hostler.v1 import fleet_pb2 as pb
from providers.contract import Arch, Driver
from tests.samples.domain import NOW, host, instance, job, pool, with_images, world
from tests.samples.store import Sample, open_sample

OFFERED = Driver("libvirt", "kvm", ("debian",), fetches=True, emulated={Arch.ARM64: ("tiny",)})


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


def _hello(*drivers: Driver, arch: Arch = Arch.AMD64) -> pb.Hello:
    said = pb.Hello(
        host="host-1",
        arch=arch,
        capacity=pb.Resources(vcpus=16, memory_mib=32768, disk_gib=500),
        drivers=[agents.driver_out(driver) for driver in drivers],
    )
    return pb.Hello.FromString(said.SerializeToString())


def _record(hello: pb.Hello) -> HostRecord:
    return wire.host_record(hello, NOW, Pressure())


def _create(arch: Arch) -> pb.CreateInstance:
    machine = instance(id=str(uuid.uuid4()), name="hostler-1")
    to = pool(network=NetworkAccess(), arch=arch)
    return wire.create_command(machine, to, None, urls("http://10.213.0.1:9996"), "token", b"").create_instance


async def test_what_a_host_emulates_is_kept_as_its_agent_says_it(sample: Sample) -> None:
    record = _record(_hello(OFFERED))
    await sample.store.hosts.present(record, 1, "")
    (kept,) = await sample.store.hosts.all()
    assert kept.drivers == record.drivers
    assert kept.arches == {"amd64", "arm64"}
    assert wire.driver_out("libvirt", kept.drivers["libvirt"]) == agents.driver_out(OFFERED)
    (known,) = (await sample.store.planning.world({})).hosts
    assert known.own_images("libvirt", "amd64") == frozenset({"debian"})
    assert known.own_images("libvirt", "arm64") == frozenset({"tiny"})
    assert known.own_images("lxd", "arm64") is None


def test_an_agent_refuses_machines_of_an_architecture_that_it_does_not_offer() -> None:
    amd64_only = agents.offers(_hello(Driver("libvirt", "kvm", ())))
    with pytest.raises(
        agents.CommandInvalid, match=r"makes no machines of arm64 with libvirt, only of amd64"
    ) as refused:
        agents.spec(_create(Arch.ARM64), drivers=amd64_only)
    assert '[libvirt] emulate = ["arm64"]' in str(refused.value)
    assert agents.spec(_create(Arch.AMD64), drivers=amd64_only).arch is Arch.AMD64
    assert agents.spec(_create(Arch.ARM64), drivers=agents.offers(_hello(OFFERED))).arch is Arch.ARM64


def test_an_emulated_architecture_is_one_drivers_not_the_hosts() -> None:
    offers = agents.offers(_hello(OFFERED, Driver("lxd", "kvm", ())))
    assert offers == {"libvirt": {"amd64", "arm64"}, "lxd": {"amd64"}}


def _emulating(name: str = "emulating", **more: object) -> Host:
    return host(name, emulated={("libvirt", "arm64"): frozenset({"debian"})}, **more)


ARM = pool(id="pool-arm", name="arm", arch="arm64", labels=job(1, "linux", "arm64").labels, max_runners=100)
AMD = pool(id="pool-amd", name="amd", arch="amd64", labels=job(1, "linux", "x64").labels, max_runners=100)


@pytest.mark.parametrize("placement", list(Placement))
def test_a_job_goes_to_its_architectures_pool_and_hosts(placement: Placement) -> None:
    hosts = (host("amd"), host("arm", arch="arm64"), _emulating())
    jobs = tuple(job(n, "linux", "ARM64" if n % 2 else "X64") for n in range(1, 9))
    pools = tuple(msgspec.structs.replace(one, placement=placement) for one in (ARM, AMD))
    decided = plan(world(jobs, pools=pools, hosts=hosts), NOW)
    by_pool = {(create.pool.arch, create.host) for create in decided.creates}
    assert len(decided.creates) == 8
    assert {on for arch, on in by_pool if arch == "arm64"} == {"arm"}
    assert {on for arch, on in by_pool if arch == "amd64"} <= {"amd", "emulating"}


@pytest.mark.parametrize("placement", list(Placement))
def test_a_host_that_emulates_is_taken_when_those_of_the_architecture_are_full(placement: Placement) -> None:
    small = host("arm", arch="arm64", capacity=Resources(4, 32768, 500))
    to = pool(arch="arm64", max_runners=9, placement=placement)
    decided = plan(world(tuple(job(n) for n in range(1, 6)), pools=(to,), hosts=(_emulating(), small)), NOW)
    took = [create.host for create in decided.creates]
    assert sorted(took) == ["arm"] * 2 + ["emulating"] * 3
    assert took[:2] == ["arm", "arm"]


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (host(), "host host-1 is amd64, the pool wants arm64"),
        (host(emulated={("lxd", "arm64"): frozenset({"debian"})}), "host host-1 is amd64, the pool wants arm64"),
        (
            host(emulated={("libvirt", "arm64"): frozenset({"plan9"})}),
            "host host-1 does not have the image 'debian', nor does the catalogue for arm64",
        ),
        (host(arch="arm64", drivers={}), "no agent offers the provider 'libvirt'"),
    ],
)
def test_why_a_host_makes_no_machine_of_another_architecture(one: Host, why: str) -> None:
    board = Board.of(world((job(),), pools=(pool(arch="arm64"),), hosts=(one,)))
    decided = plan_on(board, Moment(NOW))
    assert not decided.creates
    assert why in why_waiting(board, decided, "job-1")


IMAGE = """
[[image]]
name = "runner"
arch = "arm64"
url = "https://images.example/runner-arm64.qcow2"
sha256 = "{digest}"
"""


async def test_an_image_is_prefetched_by_those_that_can_boot_it(sample: Sample) -> None:
    await sample.apply(IMAGE.format(digest="ab" * 32))
    for name, drivers in (("emulates", (OFFERED,)), ("does-not", (Driver("libvirt", "kvm", (), fetches=True),))):
        hello = _hello(*drivers)
        hello.host = name
        await sample.store.hosts.present(_record(hello), 1, "")
    images = ImageAdmin(sample.store, Links())
    assert list((await images.prefetch("runner", "")).hosts) == ["emulates"]
    with pytest.raises(HostUnsuitable, match="host 'does-not' is amd64, and the image 'runner' is there for arm64"):
        await images.prefetch("runner", "does-not")


def test_an_image_of_the_catalogue_is_fetched_by_a_host_that_emulates() -> None:
    entry = Image("debian", "arm64", "https://images.example/a", "ab" * 32, ImageFormat.QCOW2)
    fetching = host(emulated={("libvirt", "arm64"): frozenset()}, fetches=frozenset({"libvirt"}), held=Held())
    asked = world((job(),), pools=(pool(arch="arm64"),), hosts=(fetching,))
    assert not plan(asked, NOW).creates
    assert [create.host for create in plan(with_images(asked, entry), NOW).creates] == ["host-1"]
