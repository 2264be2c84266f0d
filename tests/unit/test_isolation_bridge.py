"""No rules are made for an interface that is not a network of machines: they would cut the host off."""

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from providers.isolation import Firewall, bridge
from providers.isolation.nft import IsolationFailed
from providers.isolation.rules import Json, Network


def network(name: str) -> Network:
    return Network(name, IPv4Network("10.230.0.0/24"), IPv4Address("10.230.0.1"))


def test_loopback_is_refused_before_anything_is_changed() -> None:
    applied: list[Json] = []
    firewall = Firewall(network("lo"), lambda document, _: applied.append(document))
    with pytest.raises(IsolationFailed, match="'lo' is no bridge"):
        firewall.hold({})
    with pytest.raises(IsolationFailed, match="'lo' is no bridge"):
        firewall.restore()
    assert applied == []


def test_a_bridge_with_another_address_is_somebody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docker0" / "bridge").mkdir(parents=True)
    monkeypatch.setattr(bridge, "_address", lambda _: IPv4Address("172.17.0.1"))
    with pytest.raises(IsolationFailed, match=r"172\.17\.0\.1, not 10\.230\.0\.1"):
        bridge.check(network("docker0"), tmp_path)


@pytest.mark.parametrize("address", [None, IPv4Address("10.230.0.1")])
def test_our_bridge_is_taken_with_our_address_or_none_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: IPv4Address | None
) -> None:
    (tmp_path / "ours0" / "bridge").mkdir(parents=True)
    monkeypatch.setattr(bridge, "_address", lambda _: address)
    bridge.check(network("ours0"), tmp_path)


def test_a_bridge_that_is_still_to_be_made_is_taken(tmp_path: Path) -> None:
    bridge.check(network("later0"), tmp_path)


def test_the_address_of_an_interface_is_what_the_kernel_says() -> None:
    assert bridge._address("lo") == IPv4Address("127.0.0.1")
    assert bridge._address("nothing-there") is None
