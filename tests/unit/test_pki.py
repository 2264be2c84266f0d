"""Who a certificate is for, what certificates say, and how often strangers may try."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from coordinator.pki import authority, names
from coordinator.pki.attempts import Attempts, TooManyAttempts, source
from coordinator.pki.authority import Authority, RequestInvalid, key_in
from coordinator.pki.names import HostIdentity, NotAHost, address, read

CONTROLLER = "6f0d3c1a-1111-4222-8333-444455556666"
ENROLMENT = "0a0b0c0d-1111-4222-8333-444455556666"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
ME = HostIdentity("build-1", ENROLMENT)

HOSTS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,30}[A-Za-z0-9])?", fullmatch=True)


@given(HOSTS, st.uuids(version=4))
def test_what_is_written_into_a_certificate_is_read_from_it(host: str, enrolment: Any) -> None:
    identity = HostIdentity(host, str(enrolment))
    assert read([identity.uri(CONTROLLER)], CONTROLLER) == identity


@pytest.mark.parametrize(
    "given_names",
    [
        [],
        ["build-1"],
        [f"spiffe://{ENROLMENT}/host/build-1/{ENROLMENT}"],  # of another installation
        [f"spiffe://{CONTROLLER}/host//{ENROLMENT}"],
        [f"spiffe://{CONTROLLER}/host/build-1"],
        [f"spiffe://{CONTROLLER}/host/build-1/x/{ENROLMENT}"],
        [f"spiffe://{CONTROLLER}/coordinator/build-1/{ENROLMENT}"],
        [f"spiffe://{CONTROLLER}/host/build-1/{ENROLMENT}", f"spiffe://{CONTROLLER}/host/build-2/{ENROLMENT}"],
        [f"spiffe://{CONTROLLER}/host/build-1/{ENROLMENT}\n"],
    ],
)
def test_anything_else_is_no_host(given_names: list[str]) -> None:
    with pytest.raises(NotAHost):
        read(given_names, CONTROLLER)


def made() -> Authority:
    return Authority(authority.make(CONTROLLER, NOW), CONTROLLER)


def request(key: Any, algorithm: Any) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)


def test_certificates_are_the_cas_and_short() -> None:
    ca, key = made(), ec.generate_private_key(ec.SECP256R1())
    certificate = x509.load_pem_x509_certificate(ca.for_host(ME, key.public_key(), NOW, timedelta(days=7)))
    root = x509.load_pem_x509_certificate(ca.pem)
    certificate.verify_directly_issued_by(root)
    assert certificate.not_valid_after_utc == NOW + timedelta(days=7)
    assert certificate.not_valid_before_utc == NOW - names.BACKDATED
    assert certificate.public_key() == key.public_key()
    other = x509.load_pem_x509_certificate(made().pem)
    with pytest.raises((InvalidSignature, ValueError)):
        certificate.verify_directly_issued_by(other)


def test_the_coordinators_certificate_has_the_names_it_is_called_by() -> None:
    ca = made()
    shown = ca.for_server(["build.example", "192.0.2.1", "2001:db8::1"], NOW, timedelta(days=7))
    leaf, root = x509.load_pem_x509_certificates(shown.chain)
    called = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in called] == ["build.example", "192.0.2.1", "2001:db8::1"]
    assert root == x509.load_pem_x509_certificate(ca.pem)


def test_a_request_must_be_signed_with_its_own_key_of_the_right_kind() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert key_in(request(key, hashes.SHA256())) == key.public_key()
    for bad, said in (
        (request(ed25519.Ed25519PrivateKey.generate(), None), "must be of the curve P-256"),
        (request(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()), "must be of the curve P-256"),
        (b"nonsense", "not a certificate signing request"),
        (b"", "not a certificate signing request"),
    ):
        with pytest.raises(RequestInvalid, match=said):
            key_in(bad)
    der = bytearray(x509.load_pem_x509_csr(request(key, hashes.SHA256())).public_bytes(Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(RequestInvalid, match="not signed with its own key"):
        key_in(forged)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_whoever_fails_too_often_waits_a_minute_and_others_do_not() -> None:
    clock = Clock()
    attempts = Attempts(clock, allowed=3)
    for _ in range(3):
        attempts.check("ipv4:192.0.2.1:1000")
        attempts.failed("ipv4:192.0.2.1:2000")
        clock.now += 1
    with pytest.raises(TooManyAttempts, match="wait a minute"):
        attempts.check("ipv4:192.0.2.1:3000")
    attempts.check("ipv4:192.0.2.2:3000")
    clock.now += 58
    attempts.check("ipv4:192.0.2.1:3000")


def test_what_is_kept_of_strangers_is_bounded() -> None:
    attempts = Attempts(Clock())
    for number in range(10_500):
        attempts.failed(f"ipv4:10.{number >> 16}.{number >> 8 & 255}.{number & 255}:1")
    assert len(attempts._failed) == 10_000


@pytest.mark.parametrize(
    ("peer", "whose"),
    [
        ("ipv4:192.0.2.1:5000", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:5000", "2001:db8::/64"),
        ("ipv6:[2001:db8::2]:5001", "2001:db8::/64"),
        ("ipv6:%5B::ffff:192.0.2.1%5D:5000", "192.0.2.1"),
        ("unix:/run/x", "unix:/run/x"),
    ],
)
def test_a_peer_is_its_address(peer: str, whose: str) -> None:
    assert source(peer) == whose


@pytest.mark.parametrize(
    ("first", "told"), [("build.example", "build.example:1"), ("192.0.2.1", "192.0.2.1:1"), ("::1", "[::1]:1")]
)
def test_hosts_are_told_the_first_name(first: str, told: str) -> None:
    assert address([first, "other"], 1) == told


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20).map(sorted))
def test_a_renewal_is_due_at_two_thirds_or_a_little_before(chances: list[float]) -> None:
    from agent.identity import made as identity_made  # noqa: PLC0415

    mine = identity_made(host="h", address="a:1", ca=b"", certificate=b"", key="", life_seconds=7 * 86400, now=NOW)
    due = [(mine.renew_at(chance) - NOW) / timedelta(days=7) for chance in chances]
    assert all(0.6 < share <= 2 / 3 + 1e-9 for share in due)
    assert all(earlier >= later for earlier, later in pairwise(due))
