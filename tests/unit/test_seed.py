"""The seed: its files, their quoting and the image that holds them."""

import stat
import subprocess
from io import BytesIO
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import msgspec
import pycdlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.contract import Arch, Bootstrap, InstanceSpec, ProviderError, Resources
from providers.seed import Link, seed_files, write_seed

ID = "0b8e7a52-7a53-4c0e-9d5b-0f6a1c2d3e4f"
LINK = Link(IPv4Address("10.213.0.7"), IPv4Network("10.213.0.0/22"), IPv4Address("10.213.0.1"))


def spec(token: str, user_data: bytes = b"#cloud-config\n") -> InstanceSpec:
    bootstrap = Bootstrap("http://10.213.0.1:9997/m", "http://10.213.0.1:9997/c", token, user_data)
    return InstanceSpec(ID, 1, "hostler-1", "debian", Resources(1, 512, 10), Arch.AMD64, "pool", bootstrap)


def sourced(environment: bytes, names: list[str]) -> list[str]:
    """The values as a POSIX shell has them after reading the file."""
    script = 'eval "$(cat)"; for name in "$@"; do eval "printf \'%s\\\\0\' \\"\\$$name\\""; done'
    done = subprocess.run(["sh", "-c", script, "sh", *names], input=environment, capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


def test_the_environment_says_who_and_where() -> None:
    names = ["INSTANCE_ID", "INSTANCE_NAME", "METADATA_URL", "CALLBACK_URL", "TOKEN", "ADDRESS", "GATEWAY", "DNS"]
    assert sourced(seed_files(spec("secret"), LINK)["hostler.env"], [f"HOSTLER_{name}" for name in names]) == [
        ID,
        "hostler-1",
        "http://10.213.0.1:9997/m",
        "http://10.213.0.1:9997/c",
        "secret",
        "10.213.0.7/22",
        "10.213.0.1",
        "10.213.0.1",
    ]


@settings(max_examples=40, deadline=None)
@given(token=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_no_value_can_break_out_of_its_quotes(token: str) -> None:
    assert sourced(seed_files(spec(token), LINK)["hostler.env"], ["HOSTLER_TOKEN"]) == [token]


@pytest.mark.parametrize("token", ["a\nb", "a\0b", "a\rb"])
def test_a_value_that_is_not_one_line_is_refused(token: str) -> None:
    with pytest.raises(ProviderError, match="HOSTLER_TOKEN"):
        seed_files(spec(token), LINK)


def test_cloud_init_gets_name_and_static_address_of_the_right_interface() -> None:
    files = seed_files(spec("secret"), LINK)
    assert msgspec.json.decode(files["meta-data"]) == {"instance-id": ID, "local-hostname": "hostler-1"}
    (ethernet,) = msgspec.json.decode(files["network-config"])["ethernets"].values()
    assert ethernet["match"] == {"macaddress": "52:54:00:d5:00:07"}
    assert ethernet["addresses"] == ["10.213.0.7/22"]
    assert ethernet["nameservers"] == {"addresses": ["10.213.0.1"]}


def test_the_image_is_labelled_complete_and_private(tmp_path: Path) -> None:
    files = seed_files(spec("secret", user_data=b""), LINK)
    path = tmp_path / "seed.iso"
    write_seed(files, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    assert iso.pvd.volume_identifier.decode().strip() == "cidata"
    for name, content in files.items():
        for names in ({"rr_path": f"/{name}"}, {"joliet_path": f"/{name}"}):
            read = BytesIO()
            iso.get_file_from_iso_fp(read, **names)
            assert read.getvalue() == content
    iso.close()
