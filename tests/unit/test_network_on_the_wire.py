"""What a pool's machines may reach, from the pool to the agent's provider."""

import uuid

import pytest

from agent import wire as agents
from coordinator.fleet import wire
from coordinator.runner_api.scripts import urls
from hostler.network import NetworkAccess, NetworkPolicy
from protos.hostler.v1 import fleet_pb2 as pb
from tests.samples.domain import instance, pool


def _command(network: NetworkAccess) -> pb.CreateInstance:
    machine = instance(id=str(uuid.uuid4()), name="hostler-1")
    sent = wire.create_command(machine, pool(network=network), None, urls("http://10.213.0.1:9996"), "token", b"")
    return pb.CreateInstance.FromString(sent.create_instance.SerializeToString())


@pytest.mark.parametrize("policy", NetworkPolicy)
def test_policy_and_allow_list_arrive_as_declared(policy: NetworkPolicy) -> None:
    network = NetworkAccess(policy, ("dns", "10.0.0.0/8:443"))
    assert agents.spec(_command(network), drivers={"libvirt": {"amd64"}}).network == network


def test_a_coordinator_of_before_the_policies_means_the_default() -> None:
    command = _command(NetworkAccess(NetworkPolicy.OPEN))
    command.ClearField("network")
    assert agents.spec(command, drivers={"libvirt": {"amd64"}}).network == NetworkAccess(NetworkPolicy.INTERNET)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (pb.NetworkAccess(policy="wide"), "'wide' is not a valid NetworkPolicy"),
        (pb.NetworkAccess(), "'' is not a valid NetworkPolicy"),
        (pb.NetworkAccess(policy="open", allow=["example.com"]), "is a name"),
    ],
)
def test_what_the_agent_does_not_understand_makes_no_machine(sent: pb.NetworkAccess, reason: str) -> None:
    command = _command(NetworkAccess())
    command.network.CopyFrom(sent)
    with pytest.raises(agents.CommandInvalid, match=reason):
        agents.spec(command, drivers={"libvirt": {"amd64"}})
