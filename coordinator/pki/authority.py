"""The coordinator's own CA: it signs certificates of hosts and of the coordinators themselves.

Keys are EC P-256: gRPC's BoringSSL refuses Ed25519 in certificates (handshakes fail, tried with 1.85).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coordinator.pki.names import AUTHORITY_LIFE, BACKDATED, HostIdentity
from hostler.errors import HostlerError
from hostler.pins import pin_of

_LONGEST_COMMON_NAME = 64  # X.520, ub-common-name


class RequestInvalid(HostlerError):
    """A certificate signing request that cannot be signed."""

    code = "csr_invalid"


class AuthorityKept(msgspec.Struct, frozen=True):
    """A CA as it is kept."""

    certificate: str  # PEM
    key: bytes  # PKCS #8 as DER: a secret


class ServerCredentials(msgspec.Struct, frozen=True):
    """What a coordinator's listener shows. The chain ends with the CA, for those who know it by its pin alone."""

    key: bytes  # PEM: a secret
    chain: bytes  # PEM


def make(controller_id: str, now: datetime) -> AuthorityKept:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"Hostler CA {controller_id[:8]}")
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    made = (
        _begun(name, name, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return AuthorityKept(made.public_bytes(Encoding.PEM).decode(), private)


class Authority:
    def __init__(self, kept: AuthorityKept, controller_id: str) -> None:
        key = load_der_private_key(kept.key, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("the CA's key is not of an elliptic curve")
        self._key = key
        self._certificate = x509.load_pem_x509_certificate(kept.certificate.encode())
        self.controller_id = controller_id
        self.pem = kept.certificate.encode()
        self.pin = pin_of(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    def for_host(self, identity: HostIdentity, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta) -> bytes:
        """A host's certificate as PEM: of the request it takes the key and nothing else."""
        names = [x509.UniformResourceIdentifier(identity.uri(self.controller_id))]
        made = self._leaf(identity.host, key, names, ExtendedKeyUsageOID.CLIENT_AUTH, now, life)
        return made.public_bytes(Encoding.PEM)

    def for_server(self, names: Sequence[str], now: datetime, life: timedelta) -> ServerCredentials:
        """Args: names: host names and addresses that the coordinator is called by."""
        key = ec.generate_private_key(ec.SECP256R1())
        called = [_general_name(name) for name in names]
        made = self._leaf("Hostler coordinator", key.public_key(), called, ExtendedKeyUsageOID.SERVER_AUTH, now, life)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return ServerCredentials(private, made.public_bytes(Encoding.PEM) + self.pem)

    def _leaf(
        self,
        common_name: str,
        key: ec.EllipticCurvePublicKey,
        names: Sequence[x509.GeneralName],
        purpose: x509.ObjectIdentifier,
        now: datetime,
        life: timedelta,
    ) -> x509.Certificate:
        issuer = self._key.public_key()
        return (
            _begun(_name(common_name), self._certificate.subject, key, now, life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def key_in(csr: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a request (PEM), which its sender has proved to hold.

    Raises:
        RequestInvalid: no request, of another kind of key, or not signed with it.
    """
    try:
        request = x509.load_pem_x509_csr(csr)
        key = request.public_key()
        sound = request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature) as error:
        raise RequestInvalid(f"this is not a certificate signing request: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RequestInvalid("the request's key must be of the curve P-256")
    if not sound:
        raise RequestInvalid("the request is not signed with its own key")
    return key


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + life)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_LONGEST_COMMON_NAME])])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
