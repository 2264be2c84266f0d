"""The [libvirt] and [[image]] tables: what is refused, and what is derived."""

from ipaddress import IPv4Address

import pytest

from hostler.config import parse
from hostler.errors import ConfigError
from providers.libvirt import ImageFile, LibvirtSettings


def test_an_empty_table_is_complete() -> None:
    settings = parse("", LibvirtSettings, "agent.toml")
    assert settings.gateway == IPv4Address("10.213.0.1")
    assert settings.bridge == "hostler0"
    assert settings.emulate == (), "nothing is emulated that nobody asked for"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('uri = "qemu+ssh://elsewhere/system"', "uri"),
        ('uri = "test:///default"', "uri"),
        ('acceleration = "fast"', "acceleration"),
        ('network = "Has Spaces"', "network"),
        ('emulate = ["riscv64"]', "emulate"),
        ('emulate = "arm64"', "emulate"),
        ('network = "longer-than-a-bridge"', "network"),
        ('subnet = "10.213.0.1/22"', "subnet"),
        ('subnet = "10.0.0.0/8"', "subnet"),
        ('subnet = "10.0.0.0/30"', "subnet"),
        ('subnet = "8.8.8.0/24"', "subnet"),
        ('subnet = "fd00::/64"', "subnet"),
        ('bridge = "br0"', "bridge"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"agent\.toml.*{key}"):
        parse(text, LibvirtSettings, "agent.toml")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('name = "a b"\npath = "/a"', "name"),
        ('name = "a"\npath = "relative.qcow2"', "path"),
        ('name = "a"\npath = "/a"\narch = "x86"', "arch"),
        ('name = "a"', "path"),
    ],
)
def test_a_wrong_image_is_refused_by_its_key(text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"agent\.toml.*{key}"):
        parse(text, ImageFile, "agent.toml")
