"""The exec provider's values: the JSON that goes in, the JSON that comes out, and secrets kept out of texts."""

import base64
import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.contract import Arch
from providers.exec import CloudSpec, ProxyConfig, RequestInvalid, Tool
from providers.exec.answer import read_instance, read_instances
from providers.exec.mask import Mask, secrets_of_environment, secrets_of_spec

SPEC = CloudSpec(
    name="runner-1",
    tools=(Tool(os="linux", architecture="x64", filename="runner.tar.gz", temp_download_token="download-secret"),),
    repo_url="https://forge.example/o/r",
    callback_url="https://hostler.example/api/v1/callbacks",
    metadata_url="https://hostler.example/api/v1/metadata",
    instance_token="instance-secret",
    arch=Arch.AMD64,
    flavor="small",
    image="debian-12",
    pool_id="pool-1",
    proxy_config=ProxyConfig(http_proxy="http://user:proxy-secret@proxy.example:3128"),
    extra_specs={"api_key": "specs-secret"},
)


def test_the_encoded_spec_has_exactly_the_keys_of_the_contract() -> None:
    keys = set(json.loads(SPEC.encode()))
    assert keys == {
        "name", "tools", "repo_url", "callback-url", "metadata-url", "instance-token", "ssh-keys", "extra_specs",
        "github-runner-group", "ca-cert-bundle", "arch", "os_type", "flavor", "image", "labels", "pool_id",
        "user_data_options", "jit_config_enabled", "proxy_config",
    }  # fmt: skip


def test_empty_extra_specs_are_left_out_and_empty_lists_are_null() -> None:
    encoded = json.loads(msgspec.structs.replace(SPEC, extra_specs={}).encode())
    assert "extra_specs" not in encoded
    assert encoded["ssh-keys"] is None
    assert encoded["labels"] is None
    assert encoded["ca-cert-bundle"] is None
    assert encoded["user_data_options"] == {
        "disable_updates_on_boot": False,
        "extra_packages": None,
        "enable_boot_debug": False,
    }


def test_the_ca_bundle_travels_as_base64() -> None:
    encoded = json.loads(msgspec.structs.replace(SPEC, ca_cert_bundle=b"-----BEGIN").encode())
    assert base64.b64decode(encoded["ca-cert-bundle"]) == b"-----BEGIN"


def test_no_repr_shows_a_secret() -> None:
    shown = repr(SPEC) + repr(SPEC.tools) + repr(SPEC.proxy_config)
    assert "secret" not in shown
    assert "runner-1" in shown


@pytest.mark.parametrize("name", ["", "Runner", "a" * 64, "-a", "a-", "a_b", "a.b", "a\n"])
def test_a_name_no_cloud_takes_is_refused(name: str) -> None:
    with pytest.raises(RequestInvalid, match="cannot be used in a cloud"):
        msgspec.structs.replace(SPEC, name=name).check()


@pytest.mark.parametrize(
    "tools", [(), (Tool(os="linux", architecture="arm64"),), (Tool(os="win", architecture="x64"),)]
)
def test_tools_without_the_instances_system_are_refused(tools: tuple[Tool, ...]) -> None:
    with pytest.raises(RequestInvalid, match="no runner archive for linux/x64"):
        msgspec.structs.replace(SPEC, tools=tools).check()


def test_a_usable_spec_passes() -> None:
    SPEC.check()
    msgspec.structs.replace(SPEC, name="a" * 63).check()


def instance(**changes: object) -> dict[str, object]:
    return {"provider_id": "i-1", "name": "runner-1", "status": "running"} | changes


def test_an_answer_with_nulls_and_extra_keys_is_understood() -> None:
    text = json.dumps(instance(addresses=None, os_name=None, provider_fault=None, region="eu"))
    found = read_instance(text.encode() + b"\n")
    assert found is not None
    assert (found.provider_id, found.addresses, found.provider_fault) == ("i-1", (), b"")


def test_a_fault_is_decoded_from_base64_with_line_breaks() -> None:
    fault = base64.encodebytes(b"quota " * 20).decode()
    found = read_instance(json.dumps(instance(provider_fault=fault)).encode())
    assert found is not None
    assert found.provider_fault == b"quota " * 20


@pytest.mark.parametrize("nothing", [b"{}", b"null", b" {} \n"])
def test_an_empty_object_describes_no_instance(nothing: bytes) -> None:
    assert read_instance(nothing) is None


@pytest.mark.parametrize("nothing", [b"[]", b"null", b"null\n"])
def test_both_ways_to_list_nothing_are_understood(nothing: bytes) -> None:
    assert read_instances(nothing) == []


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        (b"", "standard output is empty"),
        (b"hello", "not JSON"),
        (b'{"provider_id": "i-1"', "not JSON"),
        (b'{"provider_id": "i-1", "name": "n", "status": "running"} done', "not JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (json.dumps(instance(status="creating")).encode(), "Invalid enum value 'creating' - at `$.status`"),
        (json.dumps(instance(provider_id="")).encode(), "provider_id: must not be empty"),
        (json.dumps({"provider_id": "i-1", "status": "running"}).encode(), "missing required field `name`"),
        (json.dumps(instance(provider_fault="out of quota")).encode(), "base64 encoded string - at `$.provider_fault`"),
        (json.dumps(instance(addresses=[{"address": "::1", "type": "ipv6"}])).encode(), "Invalid enum value 'ipv6'"),
        (b'{"provider_id": "\xff", "name": "n", "status": "running"}', "not JSON"),
    ],
)
def test_a_bad_answer_is_refused_with_its_reason(printed: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        read_instance(printed)


def test_one_bad_element_fails_the_listing_and_is_named() -> None:
    listing = json.dumps([instance(), instance(status="deleted")]).encode()
    with pytest.raises(ValueError, match="element 1: Invalid enum value 'deleted'"):
        read_instances(listing)
    with pytest.raises(ValueError, match="Expected `array"):
        read_instances(b"{}")


def test_all_forms_of_a_secret_are_masked() -> None:
    mask = Mask(["p%40ss/w", 'quo"te'])
    assert mask('p%40ss/w p@ss/w p%40ss%2Fw quo"te {"x": "quo\\"te"}') == '*** *** *** *** {"x": "***"}'


def test_a_secret_that_contains_another_is_masked_whole() -> None:
    assert Mask(["abc", "abcdef"])("abcdef abc") == "*** ***"


def test_without_secrets_nothing_changes() -> None:
    assert Mask(["", ""])("as it was") == "as it was"


@given(
    before=st.text(max_size=20), secret=st.text(alphabet="abcdefgh", min_size=8, max_size=30), cut=st.integers(0, 60)
)
def test_a_text_cut_anywhere_keeps_no_end_of_a_secret(before: str, secret: str, cut: int) -> None:
    rest = f"{before}{secret}|end"[cut:]
    shown = Mask([secret])(rest, cut=cut > 0)
    assert secret not in shown
    inside = cut - len(before)
    if 0 < inside < len(secret):
        assert shown == "|end"


def test_secrets_are_found_in_spec_and_environment() -> None:
    packed = base64.b64encode(b'{"api_key":"specs-secret"}').decode()
    found = {"instance-secret", "download-secret", "proxy-secret", "specs-secret", packed}
    assert secrets_of_spec(SPEC) == found
    environment = {
        "https_proxy": "user:other-secret@proxy.example",
        "HTTP_PROXY": "http://[broken",
        "AWS_SECRET_ACCESS_KEY": "long-enough",
        "KEYBOARD": "us",
        "AWS_REGION": "eu-central-1",
    }
    assert secrets_of_environment(environment) == {"other-secret", "long-enough"}
