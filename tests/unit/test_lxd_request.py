"""What LXD is asked for, and what its instances say of themselves. Real containers: tests/providers."""

import uuid
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.network import NetworkAccess, NetworkPolicy
from providers.contract import Phase, ProviderError, Resources
from providers.lxd.request import Plan, create_body, without_cloud_init
from providers.lxd.tags import Tags, read, written

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
TAGS = Tags(
    str(uuid.UUID(int=1)), 3, "/var/lib/hostler-agent/instances", "pool", NetworkAccess(), (), {Phase.ACCEPTED: AT}
)
MACHINE = Plan(
    tags=TAGS,
    name="hostler-1",
    driver="lxd",
    fingerprint="f" * 64,
    resources=Resources(vcpus=2, memory_mib=3000, disk_gib=40),
    storage_pool="fast",
    network="hostler-lxd",
    port="h0ad60001-9",
    address=IPv4Address("10.214.0.9"),
    seed=Path("/var/lib/hostler-agent/instances/1/seed.img"),
)
CONTAINER = msgspec.structs.replace(
    MACHINE, driver="lxd-container", seed=None, user_data="#cloud-config\nhas: token", network_config="version: 2"
)


def test_a_virtual_machine_gets_its_size_its_seed_as_a_disk_and_no_secure_boot() -> None:
    body = create_body(MACHINE)
    assert (body["type"], body["name"], body["ephemeral"]) == ("virtual-machine", "hostler-1", False)
    assert body["source"] == {"type": "image", "fingerprint": "f" * 64}
    config = body["config"]
    assert (config["limits.cpu"], config["limits.memory"]) == ("2", "3000MiB")
    assert (config["security.secureboot"], config["migration.stateful"]) == ("false", "false")
    assert not [key for key in config if "cloud-init" in key or "user-data" in key or "nesting" in key]
    assert body["devices"]["root"] == {"type": "disk", "path": "/", "pool": "fast", "size": "40GiB"}
    seed = {"type": "disk", "source": "/var/lib/hostler-agent/instances/1/seed.img", "readonly": "true"}
    assert body["devices"]["seed"] == seed


def test_a_container_may_nest_is_not_privileged_and_gets_cloud_inits_keys() -> None:
    body = create_body(CONTAINER)
    assert body["type"] == "container"
    assert "seed" not in body["devices"]
    config = body["config"]
    assert (config["security.nesting"], config["security.privileged"]) == ("true", "false")
    for prefix in ("cloud-init", "user"):
        assert config[f"{prefix}.user-data"] == "#cloud-config\nhas: token"
        assert config[f"{prefix}.network-config"] == "version: 2"
    left = {key: value for key, value in (config | without_cloud_init()).items() if value}
    assert "token" not in str(left)


def test_a_container_without_user_data_has_no_keys_of_cloud_init() -> None:
    config = create_body(msgspec.structs.replace(CONTAINER, user_data=""))["config"]
    assert not [key for key in config if "user-data" in key or "network-config" in key]


@pytest.mark.parametrize("plan", [MACHINE, CONTAINER], ids=["lxd", "lxd-container"])
def test_every_instance_is_held_to_its_address_and_is_started_by_nobody_else(plan: Plan) -> None:
    body: dict[str, Any] = create_body(plan)
    nic = body["devices"]["eth0"]
    assert nic["host_name"] == "h0ad60001-9"
    assert (nic["network"], nic["ipv4.address"], nic["hwaddr"]) == ("hostler-lxd", "10.214.0.9", "52:54:00:d6:00:09")
    for key in ("mac_filtering", "ipv4_filtering", "ipv6_filtering", "port_isolation"):
        assert nic[f"security.{key}"] == "true"
    assert (body["config"]["boot.autostart"], body["config"]["security.devlxd"]) == ("false", "false")


def test_a_driver_of_somebody_else_is_refused() -> None:
    with pytest.raises(ProviderError, match="pools name lxd or lxd-container"):
        create_body(msgspec.structs.replace(MACHINE, driver="libvirt"))


@given(
    generation=st.integers(0, 2**63),
    pool=st.text(st.characters(codec="ascii", categories=["L", "N"])),
    phases=st.dictionaries(
        st.sampled_from([Phase.ACCEPTED, Phase.DISK, Phase.STARTED, Phase.STOPPED]),
        st.datetimes(timezones=st.just(UTC)),
    ),
)
def test_what_an_instance_says_of_itself_is_read_as_it_was_written(
    generation: int, pool: str, phases: dict[Phase, datetime]
) -> None:
    access = NetworkAccess(NetworkPolicy.STRICT, ("10.0.0.0/8:443/tcp", "dns"))
    called = ("10.1.2.3:80/tcp", "10.1.2.4:80/tcp")
    tags = Tags(TAGS.instance_id, generation, TAGS.owner, pool, access, called, phases, ("10.1.2.3", "10.1.2.5"))
    assert read(written(tags) | {"user.other": "x", "limits.cpu": "1"}) == tags


@pytest.mark.parametrize(
    "spoilt",
    [{"user.hostler.id": ""}, {"user.hostler.generation": "-1"}, {"user.hostler.accepted": "yesterday"}],
    ids=lambda spoilt: next(iter(spoilt)),
)
def test_keys_that_are_not_ours_are_left_alone(spoilt: dict[str, str]) -> None:
    assert read({}) is None
    assert read({"user.hostler.owner": "/x"}) is None
    assert read(written(TAGS) | spoilt) is None
