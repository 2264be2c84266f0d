"""What a guest is told at its first boot: a NoCloud seed, as files and as an ISO image.

cloud-init's NoCloud data source finds a file system labelled `cidata` with `meta-data`, `user-data` and
`network-config` (all YAML, of which JSON is a part). `hostler.env` is for guests without cloud-init: shell words.
"""

import io
import os
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

import msgspec

from providers.addresses import mac_address
from providers.contract import InstanceSpec, ProviderError

LABEL: Final = "cidata"
_ISO_NAMES: Final = {
    "meta-data": "/METADATA.;1",
    "user-data": "/USERDATA.;1",
    "network-config": "/NETCONF.;1",
    "hostler.env": "/HOSTLER.ENV;1",
}


class Link(msgspec.Struct, frozen=True):
    """A guest's place in the network."""

    address: IPv4Address
    subnet: IPv4Network
    gateway: IPv4Address

    @property
    def cidr(self) -> str:
        return f"{self.address}/{self.subnet.prefixlen}"


def seed_files(spec: InstanceSpec, link: Link) -> dict[str, bytes]:
    """The seed's files by name.

    Raises:
        ProviderError: a value cannot be written as one line.
    """
    return {
        "meta-data": msgspec.json.encode({"instance-id": spec.instance_id, "local-hostname": spec.name}) + b"\n",
        "user-data": spec.bootstrap.user_data,
        "network-config": _network_config(link),
        "hostler.env": _environment(spec, link),
    }


def write_seed(files: dict[str, bytes], path: Path) -> None:
    """Write the ISO image; it holds a secret, so only its owner may read it (libvirt hands it to QEMU's user)."""
    import pycdlib  # noqa: PLC0415 - 2 MiB that a host at rest has no use for

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    try:
        for name, content in files.items():
            iso.add_fp(io.BytesIO(content), len(content), _ISO_NAMES[name], rr_name=name, joliet_path=f"/{name}")
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            iso.write_fp(file)
    finally:
        iso.close()


def _network_config(link: Link) -> bytes:
    """Network configuration version 2: https://docs.cloud-init.io, "Networking config Version 2"."""
    ethernet = {
        "match": {"macaddress": mac_address(link.address)},
        "set-name": "eth0",
        "dhcp4": False,
        "addresses": [link.cidr],
        "routes": [{"to": "0.0.0.0/0", "via": str(link.gateway)}],
        "nameservers": {"addresses": [str(link.gateway)]},
    }
    return msgspec.json.encode({"version": 2, "ethernets": {"eth0": ethernet}}) + b"\n"


def _environment(spec: InstanceSpec, link: Link) -> bytes:
    values = {
        "HOSTLER_INSTANCE_ID": spec.instance_id,
        "HOSTLER_INSTANCE_NAME": spec.name,
        "HOSTLER_METADATA_URL": spec.bootstrap.metadata_url,
        "HOSTLER_CALLBACK_URL": spec.bootstrap.callback_url,
        "HOSTLER_TOKEN": spec.bootstrap.token,
        "HOSTLER_ADDRESS": link.cidr,
        "HOSTLER_GATEWAY": str(link.gateway),
        "HOSTLER_DNS": str(link.gateway),
    }
    return "".join(f"{key}={_quoted(key, value)}\n" for key, value in values.items()).encode()


def _quoted(key: str, value: str) -> str:
    """Single quotes keep every character as it is, save the quote itself."""
    if not value.isprintable():
        raise ProviderError(f"{key} holds a line break or control character, which no guest could take")
    return "'" + value.replace("'", "'\\''") + "'"
