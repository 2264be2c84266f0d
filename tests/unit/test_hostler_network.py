"""Policies and allow lists: what may be declared, and what each entry means."""

from ipaddress import IPv4Network

import pytest

from hostler.network import MOST_OPENINGS, NetworkAccess, NetworkPolicy, Opening, opening, openings


@pytest.mark.parametrize(
    ("entry", "meant"),
    [
        ("10.0.0.0/8", Opening(IPv4Network("10.0.0.0/8"))),
        ("192.0.2.7", Opening(IPv4Network("192.0.2.7/32"))),
        ("192.0.2.7:443", Opening(IPv4Network("192.0.2.7/32"), 443, "tcp")),
        ("10.1.0.0/16:53/udp", Opening(IPv4Network("10.1.0.0/16"), 53, "udp")),
        ("0.0.0.0/0:65535/tcp", Opening(IPv4Network("0.0.0.0/0"), 65535, "tcp")),
    ],
)
def test_an_entry_is_a_network_with_all_protocols_or_one_port_of_one(entry: str, meant: Opening) -> None:
    assert opening(entry) == meant
    assert meant.exact == ("/8" not in entry and "/16" not in entry and "/0" not in entry)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("github.com", "is a name; packet filters know addresses"),
        ("github.com:443", "is a name"),
        ("2001:db8::/32", "is IPv6"),
        ("[::1]", "is IPv6"),
        ("", "is not CIDR, CIDR:PORT or CIDR:PORT/udp"),
        ("10.0.0.0/8/tcp", "is not CIDR"),
        ("10.0.0.0/8:", "is not CIDR"),
        ("10.0.0.0/8:80-90", "is not CIDR"),
        ("10.0.0.0/8; drop", "is not CIDR"),
        ("10.0.0.0/33", "is not an IPv4 address or network"),
        ("10.0.0.256", "is not an IPv4 address or network"),
        ("10.0.0.1/8", "has bits set behind its prefix; the network would be 10.0.0.0/8"),
        ("10.0.0.0/8:0", "has a port that is not from 1 to 65535"),
        ("10.0.0.0/8:70000", "has a port that is not from 1 to 65535"),
        ("10.0.0.0/8:53/icmp", "has the protocol 'icmp'; there are tcp and udp"),
    ],
)
def test_what_is_no_entry_is_refused_with_its_reason(entry: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"^'") as caught:
        opening(entry)
    assert reason in str(caught.value)


def test_there_may_not_be_too_many() -> None:
    assert len(openings(("192.0.2.1",) * MOST_OPENINGS)) == MOST_OPENINGS
    with pytest.raises(ValueError, match="101 entries are more than 100"):
        openings(("192.0.2.1",) * (MOST_OPENINGS + 1))


def test_a_strict_machine_may_ask_for_names_only_where_that_is_said() -> None:
    assert not NetworkAccess(NetworkPolicy.STRICT, ("10.0.0.0/8",)).resolver
    assert NetworkAccess(NetworkPolicy.STRICT, ("dns",)).resolver
    assert NetworkAccess(NetworkPolicy.INTERNET).resolver
    assert NetworkAccess(NetworkPolicy.OPEN).resolver
    assert openings(("dns", "10.0.0.0/8")) == [Opening(IPv4Network("10.0.0.0/8"))]


def test_what_says_nothing_opens_nothing() -> None:
    assert NetworkAccess() == NetworkAccess(NetworkPolicy.STRICT, ())
    with pytest.raises(ValueError, match="is a name"):
        NetworkAccess(NetworkPolicy.OPEN, ("example.com",))
