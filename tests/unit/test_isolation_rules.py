"""The rules as a packet meets them: an interpreter of our document, and what it must never let through."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hostler.network import NetworkAccess, NetworkPolicy, Opening
from providers.addresses import mac_address
from providers.contract import Bootstrap, ProviderError
from providers.isolation import Coordinator, Guest, Network, guest_of, port_name, rules, runner_api
from providers.isolation.mark import MARK
from tests.samples.domain import calm

NETWORK = Network("hostler0", IPv4Network("10.213.0.0/22"), IPv4Address("10.213.0.1"))
RUNNER_API = ("10.213.0.1:9996/tcp", "9.9.9.9:9996/tcp")
COORDINATOR = ("9.9.9.8",)
HOST = (NETWORK.gateway, IPv4Address("192.0.2.2"), IPv4Address("127.0.0.1"))


class Packet(msgspec.Struct, frozen=True):
    """What a machine sends: by which port, under which addresses, where to."""

    port: str
    mac: str
    sender: IPv4Address
    to: IPv4Address
    protocol: str = "tcp"
    service: int = 443
    kind: str = "ip"  # or arp, then `sender` and `mac` are also what it claims


class Kernel:
    """Follows the document's chains as nftables does; knows only what the document uses."""

    def __init__(self, document: rules.Json) -> None:
        self._chains: dict[tuple[str, str], list[list[rules.Json]]] = {}
        self._sets: dict[tuple[str, str], list[Any]] = {}
        self._marked = 0
        for command in document["nftables"]:
            for kind, value in command.get("add", {}).items():
                family = value["family"]
                if kind == "chain":
                    self._chains[family, value["name"]] = []
                elif kind in ("set", "map"):
                    self._sets[family, value["name"]] = value.get("elem", [])
                elif kind == "rule":
                    self._chains[family, value["chain"]].append(value["expr"])

    def admits(self, packet: Packet) -> bool:
        self._marked = 0
        if not self._passes("bridge", "from-machines", packet):
            return False
        # What the gate at the bridge asks for: without it no packet that the rules admit would come through.
        assert self._marked & MARK
        return packet.kind == "arp" or self._passes("inet", "from-machines", packet)

    def _passes(self, family: str, chain: str, packet: Packet) -> bool:
        for expression in self._chains[family, chain]:
            verdict = self._verdict(family, expression, packet)
            if verdict is not None:
                if "goto" in verdict:
                    return self._passes(family, verdict["goto"]["target"], packet)
                return "accept" in verdict
        return True

    def _verdict(self, family: str, expression: Iterable[rules.Json], packet: Packet) -> rules.Json | None:
        for statement in expression:
            if "match" in statement:
                if not self._matches(family, statement["match"], packet):
                    return None
            elif "vmap" in statement:
                sought = self._value(family, statement["vmap"]["key"], packet)
                found = self._sets[family, statement["vmap"]["data"][1:]]
                return next((verdict for key, verdict in found if IPv4Address(key) == sought), None)
            elif "mangle" in statement:
                assert statement["mangle"]["key"] == {"meta": {"key": "mark"}}
                self._marked |= statement["mangle"]["value"]["|"][1]
            else:
                return statement
        return None

    def _matches(self, family: str, match: rules.Json, packet: Packet) -> bool:
        found = self._value(family, match["left"], packet)
        if found is None:
            return False  # a field that such a packet has not
        right = match["right"]
        if isinstance(right, str) and right.startswith("@"):
            matched = any(_equals(element, found) for element in self._sets[family, right[1:]])
        elif isinstance(right, dict) and "set" in right:
            matched = found in right["set"]
        else:
            matched = _equals(right, found)
        return matched is (match["op"] != "!=")

    def _value(self, family: str, left: rules.Json, packet: Packet) -> Any:
        if "concat" in left:
            parts = [self._value(family, part, packet) for part in left["concat"]]
            return None if None in parts else parts
        if "meta" in left:
            name = packet.port if family == "bridge" else NETWORK.bridge
            return {"iifname": name, "nfproto": "ipv4", "l4proto": packet.protocol}[left["meta"]["key"]]
        if "fib" in left:
            return "local" if packet.to in HOST else "multicast" if packet.to.is_multicast else "unicast"
        if "ct" in left:
            return {"state": "new", "direction": "original"}[left["ct"]["key"]]
        return self._field(left["payload"]["protocol"], left["payload"]["field"], packet)

    def _field(self, protocol: str, field: str, packet: Packet) -> Any:
        if protocol in ("ip", "arp") and packet.kind != protocol:
            return None
        return {
            ("ether", "type"): packet.kind,
            ("ether", "saddr"): packet.mac,
            ("arp", "saddr ether"): packet.mac,
            ("arp", "saddr ip"): packet.sender,
            ("ip", "saddr"): packet.sender,
            ("ip", "daddr"): packet.to,
            ("th", "dport"): packet.service,
        }[protocol, field]


def _equals(right: Any, found: Any) -> bool:
    if isinstance(right, dict) and "concat" in right:
        return len(right["concat"]) == len(found) and all(map(_equals, right["concat"], found))
    if isinstance(right, dict):
        prefix = right["prefix"]
        return found in IPv4Network(f"{prefix['addr']}/{prefix['len']}")
    if isinstance(found, IPv4Address):
        return IPv4Address(right) == found
    if isinstance(right, str) and right.endswith("*"):
        return str(found).startswith(right[:-1])
    return bool(right == found)


def guest(number: int, policy: NetworkPolicy = NetworkPolicy.INTERNET, *allow: str) -> Guest:
    return guest_of(NETWORK, NETWORK.subnet[number], NetworkAccess(policy, allow), RUNNER_API, COORDINATOR)


def sent_by(one: Guest, to: object, **more: Any) -> Packet:
    return Packet(one.port, one.mac, one.address, IPv4Address(str(to)), **more)


addresses = st.integers(0, 2**32 - 1).map(IPv4Address) | st.sampled_from(
    list(map(IPv4Address, ("10.213.0.1", "10.213.0.2", "10.213.3.255", "169.254.169.254", "192.168.1.1", "8.8.8.8")))
    + list(map(IPv4Address, ("9.9.9.8", "9.9.9.9")))
)
networks = st.builds(
    lambda address, length: IPv4Network((int(address), length), strict=False),
    addresses,
    st.sampled_from([0, 8, 16, 24, 31, 32]),
)
entries = st.builds(
    lambda network, port: f"{network}{port}", networks, st.sampled_from(["", ":443", ":443/udp", ":53/udp", ":22"])
)
guests = st.builds(
    lambda numbers, policies, allows: [
        guest(number, policy, *allow) for number, policy, allow in zip(numbers, policies, allows, strict=True)
    ],
    st.just([2, 3, 4]),
    st.lists(st.sampled_from(list(NetworkPolicy)), min_size=3, max_size=3),
    st.lists(st.lists(entries, max_size=5), min_size=3, max_size=3),
)
services = st.tuples(st.sampled_from(["tcp", "udp", "icmp"]), st.sampled_from([22, 53, 80, 443, 9996]))


def named(one: Guest, to: IPv4Address, protocol: str, service: int, *, exactly: bool) -> bool:
    return any(
        to in opening.network
        and (opening.exact or not exactly)
        and (opening.port is None or (opening.port, opening.protocol) == (service, protocol))
        for opening in one.openings
    )


@calm
@given(admitted=guests, to=addresses, service=services)
def test_a_machine_reaches_what_its_policy_and_its_allow_list_say_and_nothing_else(
    admitted: list[Guest], to: IPv4Address, service: tuple[str, int]
) -> None:
    protocol, port = service
    kernel = Kernel(rules.document(NETWORK, admitted))
    for one in admitted:
        reached = kernel.admits(sent_by(one, to, protocol=protocol, service=port))
        if to in NETWORK.subnet and to != NETWORK.gateway:
            assert not reached
        elif (
            to in HOST
            or any(to in IPv4Network(metadata) for metadata in rules.METADATA)
            or to.is_multicast
            or str(to) in ("9.9.9.8", "9.9.9.9")
        ):
            assert reached == named(one, to, protocol, port, exactly=True)
        elif named(one, to, protocol, port, exactly=False):
            assert reached
        else:
            private = any(to in IPv4Network(network) for network in rules.PRIVATE)
            assert reached == {"strict": False, "internet": not private, "open": True}[one.policy]


@calm
@given(admitted=guests, to=addresses, kind=st.sampled_from(["ip", "arp", "ip6", "vlan"]), data=st.data())
def test_no_machine_sends_under_anothers_address(
    admitted: list[Guest], to: IPv4Address, kind: str, data: st.DataObject
) -> None:
    ports = [one.port for one in admitted] + [port_name(NETWORK, NETWORK.subnet[9])]
    macs = [one.mac for one in admitted] + ["52:54:00:00:00:99"]
    senders = [one.address for one in admitted] + [NETWORK.gateway, IPv4Address(0), NETWORK.subnet[9]]
    packet = Packet(
        data.draw(st.sampled_from(ports)),
        data.draw(st.sampled_from(macs)),
        data.draw(st.sampled_from(senders)),
        to,
        kind=kind,
    )
    own = any((one.port, one.mac, one.address) == (packet.port, packet.mac, packet.sender) for one in admitted)
    assume(not own or kind not in ("ip", "arp"))
    assert not Kernel(rules.document(NETWORK, admitted)).admits(packet)


@calm
@given(admitted=guests)
def test_the_same_machines_have_the_same_rules_and_a_gone_one_has_none(admitted: list[Guest]) -> None:
    assert rules.document(NETWORK, admitted) == rules.document(NETWORK, reversed(admitted))
    gone, *others = admitted
    text = msgspec.json.encode(rules.document(NETWORK, others)).decode()
    assert f'"{gone.port}"' not in text


def test_every_machine_reaches_its_runner_api_and_arp_finds_the_way() -> None:
    for policy in NetworkPolicy:
        one = guest(2, policy)
        kernel = Kernel(rules.document(NETWORK, [one]))
        assert kernel.admits(sent_by(one, NETWORK.gateway, service=9996))
        assert kernel.admits(sent_by(one, NETWORK.gateway, kind="arp"))
        assert not kernel.admits(sent_by(one, NETWORK.gateway, service=9997))
        asks = kernel.admits(sent_by(one, NETWORK.gateway, protocol="udp", service=53))
        assert asks == (policy is not NetworkPolicy.STRICT)


def test_a_port_that_is_not_admitted_is_mute_also_with_no_machine_at_all() -> None:
    stranger = guest(2)
    assert not Kernel(rules.document(NETWORK, [])).admits(sent_by(stranger, "8.8.8.8"))


def test_overlapping_entries_are_joined_since_nftables_takes_no_overlaps() -> None:
    one = guest(2, NetworkPolicy.STRICT, "10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8:443", "11.0.0.0/8", "11.0.0.0/8")
    sets = {
        add["set"]["name"]: add["set"].get("elem", [])
        for add in (command.get("add", {}) for command in rules.document(NETWORK, [one])["nftables"])
        if "set" in add
    }
    assert [element["concat"][1]["prefix"] for element in sets["networks"]] == [{"addr": "10.0.0.0", "len": 7}]
    assert [element["concat"][3] for element in sets["network-services"]] == [443]


def test_a_ports_name_fits_an_interface_and_is_nobody_elses() -> None:
    wide = Network("hostler0", IPv4Network("10.213.0.0/16"), IPv4Address("10.213.0.1"))
    other = Network("other0", IPv4Network("10.214.0.0/16"), IPv4Address("10.214.0.1"))
    names = {port_name(network, network.subnet[number]) for network in (wide, other) for number in (2, 17, 65534)}
    assert len(names) == 6
    assert max(map(len, names)) <= 15
    assert port_name(NETWORK, NETWORK.subnet[2]).startswith(rules.port_prefix(NETWORK))
    assert mac_address(NETWORK.subnet[2]) == guest(2).mac


# --- where the runner API is ---


def _runner_api(url: str, access: NetworkAccess, found: list[str] | None = None) -> tuple[str, ...]:
    def resolve(host: str) -> list[str]:
        if found is None:
            raise OSError(f"{host} is unknown")
        return found

    return runner_api(Bootstrap(f"{url}/metadata", f"{url}/callbacks", "token"), access, resolve)


def test_the_runner_api_is_opened_by_address_and_port() -> None:
    access = NetworkAccess(NetworkPolicy.INTERNET)
    assert _runner_api("http://10.213.0.1:9996", access) == ("10.213.0.1:9996/tcp",)
    assert _runner_api("https://runners.example", access, ["192.0.2.1", "192.0.2.2"]) == (
        "192.0.2.1:443/tcp",
        "192.0.2.2:443/tcp",
    )


@pytest.mark.parametrize(
    ("url", "found", "policy", "reason"),
    [
        ("http://127.0.0.1:9996", None, NetworkPolicy.INTERNET, "is on loopback"),
        ("http://runners.example", ["127.0.0.1"], NetworkPolicy.INTERNET, "is on loopback"),
        ("http://runners.example", None, NetworkPolicy.INTERNET, "cannot be resolved: runners.example is unknown"),
        ("http://runners.example", ["192.0.2.1"], NetworkPolicy.STRICT, "a strict machine may not ask for names"),
        ("http://[2001:db8::1]:9996", None, NetworkPolicy.OPEN, "has IPv6"),
        ("nonsense", None, NetworkPolicy.OPEN, "is no address of a runner API"),
        ("http://runners.example:99999", None, NetworkPolicy.OPEN, "is no address of a runner API"),
        ("http://[2001:db8::1", None, NetworkPolicy.OPEN, "is no address of a runner API"),
    ],
)
def test_a_runner_api_out_of_reach_is_said_before_a_machine_is_made(
    url: str, found: list[str] | None, policy: NetworkPolicy, reason: str
) -> None:
    with pytest.raises(ProviderError, match=reason):
        _runner_api(url, NetworkAccess(policy), found)


# --- where the coordinator is ---


@pytest.mark.parametrize("policy", NetworkPolicy)
def test_of_the_coordinator_a_machine_reaches_the_runner_api_and_what_is_named_alone(policy: NetworkPolicy) -> None:
    wide, named = guest(2, policy, "0.0.0.0/0", "9.9.9.0/24:9998"), guest(3, policy, "9.9.9.8:9998", "9.9.9.9")
    kernel = Kernel(rules.document(NETWORK, [wide, named]))
    assert kernel.admits(sent_by(wide, "9.9.9.9", service=9996))
    assert kernel.admits(sent_by(wide, "9.9.9.7", service=9998))
    assert not kernel.admits(sent_by(wide, "9.9.9.9", service=9998))
    assert not kernel.admits(sent_by(wide, "9.9.9.8", service=9998))
    assert kernel.admits(sent_by(named, "9.9.9.8", service=9998))
    assert kernel.admits(sent_by(named, "9.9.9.9", service=22))
    assert not kernel.admits(sent_by(named, "9.9.9.8", service=443))


def test_a_machine_of_before_is_kept_from_where_the_coordinator_is_now() -> None:
    """It has no address of it recorded, or an older one."""
    before = guest_of(NETWORK, NETWORK.subnet[2], NetworkAccess(NetworkPolicy.OPEN), RUNNER_API)
    kernel = Kernel(rules.document(NETWORK, [before, guest(3)]))
    assert not kernel.admits(sent_by(before, "9.9.9.8"))
    assert Kernel(rules.document(NETWORK, [before])).admits(sent_by(before, "9.9.9.8"))  # what the other's does


def test_the_coordinators_addresses_are_asked_for_anew_and_kept_while_nobody_answers() -> None:
    answers: list[list[str] | None] = [["192.0.2.1", "2001:db8::1", "127.0.0.1"], None, ["192.0.2.2"]]

    def resolve(host: str) -> list[str]:
        assert host == "coordinator.example"
        answer = answers.pop(0)
        if answer is None:
            raise OSError("nobody answers")
        return answer

    one = Coordinator(lambda: "coordinator.example:9998", resolve)
    assert [one.addresses() for _ in range(3)] == [("192.0.2.1",), ("192.0.2.1",), ("192.0.2.2",)]
    answers.append(None)
    with pytest.raises(ProviderError, match=r"'coordinator\.example' cannot be resolved"):
        Coordinator(lambda: "coordinator.example:9998", resolve).addresses()


@pytest.mark.parametrize(
    ("address", "found"),
    [("192.0.2.7:9998", ("192.0.2.7",)), ("[2001:db8::1]:9998", ()), ("127.0.0.1:9998", ())],
)
def test_a_coordinator_that_has_no_name_is_where_its_address_says(address: str, found: tuple[str, ...]) -> None:
    assert Coordinator(lambda: address).addresses() == found


# --- several machines ---


def test_openings_of_one_machine_are_not_anothers() -> None:
    rich, poor = guest(2, NetworkPolicy.STRICT, "192.0.2.9", "10.0.0.0/8:443"), guest(3, NetworkPolicy.STRICT)
    kernel = Kernel(rules.document(NETWORK, [rich, poor]))
    for to in ("192.0.2.9", "10.9.9.9"):
        assert kernel.admits(sent_by(rich, to))
        assert not kernel.admits(sent_by(poor, to))
    assert Opening(IPv4Network("192.0.2.9")) in rich.openings


@given(policy=st.sampled_from(NetworkPolicy), last=st.integers(min_value=0, max_value=1023))
def test_machines_of_another_provider_on_the_same_host_are_out_of_reach_whatever_is_allowed(
    policy: NetworkPolicy, last: int
) -> None:
    other = IPv4Network("10.214.0.0/22")
    network = msgspec.structs.replace(NETWORK, neighbours=(other,))
    allowed = (Opening(IPv4Network("10.0.0.0/8")),)
    guest = Guest("h0ad50001-2", mac_address(IPv4Address("10.213.0.2")), IPv4Address("10.213.0.2"), policy, allowed)
    to = other[last]
    sent = Packet(guest.port, guest.mac, guest.address, to)
    assert Kernel(rules.document(network, [guest])).admits(sent) == (to == other[1])
    assert Kernel(rules.document(NETWORK, [guest])).admits(sent)  # what the rule is for
