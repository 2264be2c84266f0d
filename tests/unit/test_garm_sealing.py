"""What GARM sealed is opened by its passphrase, and by no other; whatever is changed in it is noticed."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostler.garm.sealing import NotOpened, unseal
from tests.samples.garm import PASSPHRASE, old_sealed, sealed

LONG = bytes(range(256)) * 600  # three packages


@given(st.binary(min_size=1, max_size=99), st.sampled_from([1, 2]), st.booleans())
@settings(max_examples=30)
def test_what_is_sealed_is_opened(plain: bytes, version: int, chacha: bool) -> None:
    assert unseal(sealed(plain, version=version, chacha=chacha), PASSPHRASE) == plain


@pytest.mark.parametrize("version", [1, 2])
def test_several_packages_are_opened_in_their_order_alone(version: int) -> None:
    envelope = json.loads(sealed(LONG, version=version))
    assert unseal(json.dumps(envelope).encode(), PASSPHRASE) == LONG
    data = base64.b64decode(envelope["data"])
    first, second = data[:65568], data[65568:131136]
    swapped = base64.b64encode(second + first + data[131136:]).decode()
    with pytest.raises(NotOpened):
        unseal(json.dumps(envelope | {"data": swapped}).encode(), PASSPHRASE)


def test_a_chain_without_its_last_package_is_refused() -> None:
    envelope = json.loads(sealed(LONG))
    cut = base64.b64encode(base64.b64decode(envelope["data"])[:131136]).decode()
    with pytest.raises(NotOpened):
        unseal(json.dumps(envelope | {"data": cut}).encode(), PASSPHRASE)


def test_what_an_older_garm_sealed_is_opened() -> None:
    assert unseal(old_sealed(b"secret"), PASSPHRASE) == b"secret"


@pytest.mark.parametrize("value", [sealed(b"secret"), old_sealed(b"secret")], ids=["sealed", "old"])
def test_another_passphrase_opens_nothing(value: bytes) -> None:
    with pytest.raises(NotOpened, match="the passphrase does not open"):
        unseal(value, PASSPHRASE[::-1])


@given(st.integers(0, 53), st.integers(1, 255))
@settings(max_examples=60)
def test_a_changed_byte_is_noticed(at: int, by: int) -> None:
    envelope = json.loads(sealed(b"a secret of 22 bytes.."))
    data = bytearray(base64.b64decode(envelope["data"]))
    data[at] ^= by
    with pytest.raises(NotOpened):
        unseal(json.dumps(envelope | {"data": base64.b64encode(data).decode()}).encode(), PASSPHRASE)
