"""The rules that hold a host's machines, as one document for nftables. Pure: networks and guests in, the document out.

A document replaces both tables of its network in one transaction: there is no moment without rules, and nothing of
what was there before can stay. Statements and expressions: libnftables-json(5).

A frame of a machine passes two gates. In `bridge`, before the bridge looks at it: it must come from a port that we gave
out, with that port's MAC and IP address. In `inet`, before routing and before any address is translated: where may
it go? What no rule admits is dropped, so a port that nobody admitted, or admitted no longer, is mute.

What goes beyond the host leaves under the host's address: the hypervisors' own rules for that are away for as long as
they take to make them anew, and a connection that began meanwhile would never have an answer.
"""

from collections import defaultdict
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from typing import Any, Final

import msgspec

from hostler.network import NetworkPolicy, Opening
from providers.isolation.mark import MARK

Json = dict[str, Any]

# Before everything else at that hook; and after connection tracking (-200), before destinations are translated (-100).
_FIRST: Final = -300
_BEFORE_TRANSLATION: Final = -150
_BEFORE_HYPERVISORS: Final = 99  # where sources are translated (100): whoever is first has decided

# Where clouds tell a machine's secrets: all link-local addresses; Azure, Alibaba, Oracle.
METADATA: Final = ("169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32")
# What is not reachable globally (IANA IPv4 special-purpose address registry, RFC 6890), with multicast and reserved.
PRIVATE: Final = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4",
    "240.0.0.0/4",
)  # fmt: skip

_INTERNET: Final = "internet"


class Network(msgspec.Struct, frozen=True):
    """A bridge of this host whose ports are machines', and nobody else's."""

    bridge: str
    subnet: IPv4Network
    gateway: IPv4Address  # the bridge's own address
    neighbours: tuple[IPv4Network, ...] = ()  # of other bridges with machines, whose first address is their gateway

    @property
    def table(self) -> str:
        return f"hostler-{self.bridge}"


class Guest(msgspec.Struct, frozen=True):
    """One machine as the rules see it."""

    port: str
    mac: str
    address: IPv4Address
    policy: NetworkPolicy
    openings: tuple[Opening, ...] = ()  # besides what the policy admits: runner API, resolver, allow list
    coordinator: tuple[IPv4Address, ...] = ()  # closed but for the openings, for all machines of the network


def port_prefix(network: Network) -> str:
    """What the ports of a network's machines are called; no other network of a host has the same gateway."""
    return f"h{int(network.gateway):08x}-"


def document(network: Network, guests: Iterable[Guest]) -> Json:
    """The whole of a network's rules."""
    admitted = sorted(guests, key=lambda guest: guest.address)
    commands = []
    for family in _FAMILIES:
        # Adding first: deleting a table that is not there would be an error.
        commands += [_add(family, network, "table"), _table("delete", family, network), _add(family, network, "table")]
    return {"nftables": [*commands, *_bridge(network, admitted), *_inet(network, admitted)]}


def removal(network: Network) -> Json:
    """No rules of that network any more, whether there were any or not."""
    return {
        "nftables": [
            command
            for family in _FAMILIES
            for command in (_table("add", family, network), _table("delete", family, network))
        ]
    }


_FAMILIES: Final = ("bridge", "inet")


def _bridge(network: Network, guests: list[Guest]) -> list[Json]:
    """Who sends: nothing but IPv4 and ARP, each under the port's own addresses, and nothing from port to port."""
    ours = _is(_meta("iifname"), f"{port_prefix(network)}*")
    pinned = [[guest.port, guest.mac, str(guest.address)] for guest in guests]
    ip_sender = (_meta("iifname"), _field("ether", "saddr"), _field("ip", "saddr"))
    arp_frame = (_meta("iifname"), _field("ether", "saddr"), _field("arp", "saddr ip"))
    arp_sender = (_meta("iifname"), _field("arp", "saddr ether"), _field("arp", "saddr ip"))
    return [
        _set("bridge", network, "senders", ["ifname", "ether_addr", "ipv4_addr"], pinned),
        _hook("bridge", network, "from-machines", "prerouting", _FIRST),
        _rule("bridge", network, "from-machines", _is_not(_meta("iifname"), f"{port_prefix(network)}*"), _ACCEPT),
        # The type as the frame has it, so that a VLAN's tag hides nothing.
        _rule("bridge", network, "from-machines", _is_not(_ETHER_TYPE, {"set": ["ip", "arp"]}), _DROP),
        _rule("bridge", network, "from-machines", _in("senders", *ip_sender), _PROVED, _ACCEPT),
        _rule(
            *("bridge", network, "from-machines"),
            *(_in("senders", *arp_frame), _in("senders", *arp_sender), _PROVED, _ACCEPT),
        ),
        _rule("bridge", network, "from-machines", _DROP),
        _hook("bridge", network, "to-the-host", "input", _FIRST),
        # Frames for the bridge itself (IEEE 802.1D) come past the first hook, and the bridge would learn their senders.
        _rule("bridge", network, "to-the-host", ours, _is(_field("ether", "daddr"), _BRIDGE_GROUP), _DROP),
        _hook("bridge", network, "between-ports", "forward", _FIRST),
        _rule("bridge", network, "between-ports", ours, _DROP),
        _rule("bridge", network, "between-ports", _is(_meta("oifname"), f"{port_prefix(network)}*"), _DROP),
    ]


def _inet(network: Network, guests: list[Guest]) -> list[Json]:
    """Where to. The order matters: a wide network in an allow list opens neither the host nor metadata in it.

    What is always closed stands in the rules themselves, so that no state of a set can open it.
    """
    to = (_field("ip", "saddr"), _field("ip", "daddr"))
    to_port = (*to, _meta("l4proto"), _field("th", "dport"))

    def rule(*parts: Json) -> Json:
        return _rule("inet", network, "from-machines", *parts)

    return [
        *_inet_sets(network, guests),
        _add("inet", network, "chain", name=_INTERNET),
        *(_rule("inet", network, _INTERNET, _to(one), _DROP) for one in PRIVATE),
        _rule("inet", network, _INTERNET, _ACCEPT),
        _map("inet", network, "policies", [[str(guest.address), _VERDICTS[guest.policy]] for guest in guests]),
        _hook("inet", network, "from-machines", "prerouting", _BEFORE_TRANSLATION),
        rule(_is_not(_meta("iifname"), network.bridge), _ACCEPT),
        rule(_is_not(_meta("nfproto"), "ipv4"), _DROP),
        *(
            rule(_is(_field("ip", "daddr"), _prefix(subnet)), _is_not(_field("ip", "daddr"), str(gateway)), _DROP)
            for subnet, gateway in ((network.subnet, network.gateway), *((one, one[1]) for one in network.neighbours))
        ),
        # Only answers: what a machine of before had open at this address is not the next one's to go on with.
        rule(_has({"ct": {"key": "state"}}, "established"), _is({"ct": {"key": "direction"}}, "reply"), _ACCEPT),
        rule(_in("addresses", *to), _ACCEPT),
        rule(_in("services", *to_port), _ACCEPT),
        rule(_is_not({"fib": {"result": "type", "flags": ["daddr"]}}, "unicast"), _DROP),
        *(rule(_to(one), _DROP) for one in METADATA),
        rule(_is(_field("ip", "daddr"), "@coordinator"), _DROP),
        rule(_in("networks", *to), _ACCEPT),
        rule(_in("network-services", *to_port), _ACCEPT),
        rule({"vmap": {"key": _field("ip", "saddr"), "data": "@policies"}}),
        rule(_DROP),
        *_outwards(network),
    ]


def _outwards(network: Network) -> list[Json]:
    """A port below 1024 would say that the host's root asks."""
    subnet = _prefix(network.subnet)
    beyond = (_is(_field("ip", "saddr"), subnet), _is_not(_field("ip", "daddr"), subnet))
    ported = _is(_meta("l4proto"), {"set": ["tcp", "udp"]})
    return [
        _hook("inet", network, "outwards", "postrouting", _BEFORE_HYPERVISORS, kind="nat"),
        _rule("inet", network, "outwards", *beyond, ported, {"masquerade": {"port": {"range": [1024, 65535]}}}),
        _rule("inet", network, "outwards", *beyond, {"masquerade": None}),
    ]


def _inet_sets(network: Network, guests: list[Guest]) -> list[Json]:
    addresses, services, networks, network_services = [], [], [], []
    for guest in guests:
        sender = str(guest.address)
        for one in sorted(set(guest.openings), key=_order):
            if one.exact and one.port is None:
                addresses.append([sender, str(one.network.network_address)])
            elif one.exact:
                services.append([sender, str(one.network.network_address), one.protocol, one.port])
        for (port, protocol), wide in _wide(guest.openings).items():
            # Intervals of a set may not overlap.
            for joined in collapse_addresses(wide):
                if port is None:
                    networks.append([sender, _prefix(joined)])
                else:
                    network_services.append([sender, _prefix(joined), protocol, port])
    pair = ["ipv4_addr", "ipv4_addr"]
    with_port = [*pair, "inet_proto", "inet_service"]
    return [
        _addresses("inet", network, "coordinator", {one for guest in guests for one in guest.coordinator}),
        _set("inet", network, "addresses", pair, addresses),
        _set("inet", network, "services", with_port, services),
        _set("inet", network, "networks", pair, networks, intervals=True),
        _set("inet", network, "network-services", with_port, network_services, intervals=True),
    ]


def _wide(openings: Iterable[Opening]) -> dict[tuple[int | None, str], list[IPv4Network]]:
    found = defaultdict(list)
    for one in sorted(set(openings), key=_order):
        if not one.exact:
            found[one.port, "" if one.port is None else one.protocol].append(one.network)
    return found


def _order(one: Opening) -> tuple[IPv4Network, int, str]:
    return one.network, one.port or 0, one.protocol


# The schema's parts.

_ACCEPT: Final[Json] = {"accept": None}
_DROP: Final[Json] = {"drop": None}
_BRIDGE_GROUP: Final[Json] = {"prefix": {"addr": "01:80:c2:00:00:00", "len": 44}}
_VERDICTS: Final[dict[NetworkPolicy, Json]] = {
    NetworkPolicy.STRICT: _DROP,
    NetworkPolicy.INTERNET: {"goto": {"target": _INTERNET}},
    NetworkPolicy.OPEN: _ACCEPT,
}


def _add(family: str, network: Network, kind: str, **values: Any) -> Json:
    if kind == "table":
        return _table("add", family, network)
    return {"add": {kind: {"family": family, "table": network.table, **values}}}


def _table(command: str, family: str, network: Network) -> Json:
    return {command: {"table": {"family": family, "name": network.table}}}


def _hook(family: str, network: Network, name: str, hook: str, priority: int, *, kind: str = "filter") -> Json:
    """Other networks' packets come by too, so what is not ours passes; the chain's rules drop what is."""
    return _add(family, network, "chain", name=name, type=kind, hook=hook, prio=priority, policy="accept")


def _rule(family: str, network: Network, chain: str, *parts: Json) -> Json:
    return _add(family, network, "rule", chain=chain, expr=list(parts))


def _set(
    family: str, network: Network, name: str, types: list[str], elements: list[list[Any]], *, intervals: bool = False
) -> Json:
    values: Json = {"name": name, "type": types}
    if intervals:
        values["flags"] = ["interval"]
    if elements:
        values["elem"] = [{"concat": element} for element in elements]
    return _add(family, network, "set", **values)


def _addresses(family: str, network: Network, name: str, members: Iterable[IPv4Address]) -> Json:
    values: Json = {"name": name, "type": "ipv4_addr"}
    elements = [str(one) for one in sorted(members)]
    return _add(family, network, "set", **(values | {"elem": elements} if elements else values))


def _map(family: str, network: Network, name: str, elements: list[list[Any]]) -> Json:
    values: Json = {"elem": elements} if elements else {}
    return _add(family, network, "map", name=name, type="ipv4_addr", map="verdict", **values)


def _meta(key: str) -> Json:
    return {"meta": {"key": key}}


def _field(protocol: str, field: str) -> Json:
    return {"payload": {"protocol": protocol, "field": field}}


_ETHER_TYPE: Final = _field("ether", "type")
_PROVED: Final[Json] = {"mangle": {"key": _meta("mark"), "value": {"|": [_meta("mark"), MARK]}}}


def _prefix(network: IPv4Network) -> Json:
    return {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}


def _is(left: Json, right: Any) -> Json:
    return {"match": {"op": "==", "left": left, "right": right}}


def _to(network: str) -> Json:
    return _is(_field("ip", "daddr"), _prefix(IPv4Network(network)))


def _is_not(left: Json, right: Any) -> Json:
    return {"match": {"op": "!=", "left": left, "right": right}}


def _has(left: Json, right: str) -> Json:
    return {"match": {"op": "in", "left": left, "right": right}}


def _in(name: str, *parts: Json) -> Json:
    return _is({"concat": list(parts)}, f"@{name}")
