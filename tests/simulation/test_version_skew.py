"""Agents and coordinators of neighbouring versions: jobs run whichever of the two is the newer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from hostler import __version__
from protos.hostler.v1 import fleet_pb2 as pb
from providers.simulated import SimulatedProvider
from tests.simulation import skew
from tests.simulation.agent_harness import QUICK, PlayedCoordinator, running_agent
from tests.simulation.farm import Farm, farm, free_port
from tests.simulation.skew import SkewProxy, Vocabulary, as_newer, as_older, skewed, unchanged

SKEWS: dict[str, tuple[Callable[[], Vocabulary], skew.Change, skew.Change]] = {
    "a newer agent": (skew.newer, as_newer, unchanged),
    "an older agent": (skew.older, as_older, as_older),
    "a newer coordinator": (skew.newer, unchanged, as_newer),
    "an older coordinator": (skew.older, as_older, as_older),
}


@pytest.mark.parametrize("which", SKEWS)
async def test_a_job_runs_and_a_reconnection_in_its_midst_changes_nothing(tmp_path: Path, which: str) -> None:
    vocabulary, up, down = SKEWS[which]
    async with farm(tmp_path) as one:
        port = free_port()
        await one.declare()
        one.guests.may_end.clear()
        async with skewed(one.grpc_port, port, vocabulary(), up=up, down=down) as proxy:
            await one.start_agent(address=f"127.0.0.1:{port}")
            job = one.queue()
            active = await one.until_instance(lambda instance: instance.runner_status == "active")
            await cut_and_plug(one, proxy)
            assert await one.until_instance(lambda instance: instance.id == active.id) == active
            one.guests.may_end.set()
            await one.completed(job)
            await one.completed(one.queue(), one.queue())
            await one.assert_nothing_left()
            assert len(one.created()) == 3
            assert proxy.passed > 20
            await one.stop("host-1")


async def cut_and_plug(one: Farm, proxy: SkewProxy) -> None:
    await proxy.stop()
    await one.until(lambda status: not any(host.connected for host in status.hosts))
    await proxy.__aenter__()
    await one.until_host_connected()


def two_on(message: Any) -> Any:
    for changed in as_newer(message):
        kind = changed.WhichOneof("message")
        if kind == "hello":
            changed.hello.agent_version = skew.minor(+2)
        yield changed


async def test_two_minor_releases_apart_the_coordinator_refuses_and_says_which_to_upgrade(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    provider = SimulatedProvider(QUICK, directory=tmp_path / "host-1/instances")
    async with farm(tmp_path) as one:
        port = free_port()
        async with (
            skewed(one.grpc_port, port, skew.newer(), up=two_on) as proxy,
            running_agent(tmp_path / "host-1", port, provider),
        ):
            await one.until_true(lambda: proxy.passed >= 3)  # it tries again: one of the two may be upgraded
            assert not (await one.status()).hosts
    said = capfd.readouterr()
    assert f"agent {skew.minor(+2)} and coordinator {__version__} are more than one minor release apart" in said.err
    assert "upgrade the coordinator, which is the older" in said.err


async def test_two_minor_releases_apart_the_agent_refuses_as_well(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    provider = SimulatedProvider(QUICK, directory=tmp_path / "instances")
    async with PlayedCoordinator() as coordinator:
        coordinator.version = skew.minor(+2)
        async with running_agent(tmp_path, coordinator.port, provider):
            await coordinator.hears_hello(3)  # it tries again: one of the two may be upgraded
            assert {message.WhichOneof("message") for message in coordinator.heard} == {"hello"}
    assert "upgrade the agent, which is the older" in capfd.readouterr().err


def test_an_older_version_lacks_all_that_messages_have_grown_by() -> None:
    file = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    grown = {message.name: young for message in file.message_type if (young := skew.young(message))}
    assert grown["Driver"] == {"fetches", "emulated", "passes_devices"}
    assert grown["CreateInstance"] == {"network", "image_source"}
    assert grown["CoordinatorMessage"] == {"prefetch_image", "inventory_request"}
    assert {"Hello", "Resources", "AgentMessage"} < grown.keys()
    older = skew.older()
    for message in (older.up, older.down):
        assert message.DESCRIPTOR.name in grown
        for name, fields in grown.items():
            there = message.DESCRIPTOR.file.message_types_by_name[name].fields_by_name
            assert there
            assert not fields & set(there)


def test_the_other_versions_are_others() -> None:
    newer, older = skew.newer(), skew.older()
    ours = pb.AgentMessage(hello=pb.Hello(host="h", agent_run="run"))
    (hello, unknown) = as_newer(newer.up.FromString(ours.SerializeToString()))
    heard = pb.AgentMessage.FromString(hello.SerializeToString())
    assert (heard.hello.host, heard.hello.agent_run) == ("h", "run")
    assert heard.SerializeToString() != ours.SerializeToString()
    assert pb.AgentMessage.FromString(unknown.SerializeToString()).WhichOneof("message") is None
    (hello,) = as_older(older.up.FromString(ours.SerializeToString()))
    heard = pb.AgentMessage.FromString(hello.SerializeToString())
    assert (heard.hello.host, heard.hello.agent_run) == ("h", "")
