"""The pin of the coordinator's CA: by it a machine that has nothing yet knows whom it speaks to.

`sha256:HEX` of the CA's SubjectPublicKeyInfo, as kubeadm has it. The CA itself is fetched from whoever answers, and is
believed only when the pin fits; every connection after that is verified against it.
"""

import hashlib
import re
import socket
import ssl
from collections.abc import Iterable
from typing import Final

from hostler.config import host_and_port
from hostler.errors import HostlerError

_PIN: Final = re.compile(r"sha256:[0-9a-f]{64}")
_SECONDS: Final = 10.0


class PinWrong(HostlerError):
    """What answers is not the coordinator that the pin is of."""

    code = "ca_pin_wrong"


class CoordinatorSilent(HostlerError):
    """Nobody speaks TLS there."""

    code = "coordinator_unreachable"


def check_pin(pin: str) -> None:
    """
    Raises:
        ValueError: it is no pin.
    """
    if _PIN.fullmatch(pin) is None:
        raise ValueError(f"'{pin[:80]}' is not a pin: sha256: and 64 characters of 0-9, a-f")


def pin_of(public_key_info: bytes) -> str:
    """Args: public_key_info: SubjectPublicKeyInfo as DER."""
    return f"sha256:{hashlib.sha256(public_key_info).hexdigest()}"


def fetch_ca(address: str, pin: str) -> bytes:
    """The CA's certificate as PEM, from the coordinator at `address` (HOST:PORT). Blocking.

    Raises:
        CoordinatorSilent: see there.
        PinWrong: see there.
    """
    for der in _chain(address):
        if pin_of(_public_key_info(der)) == pin:
            return ssl.DER_cert_to_PEM_cert(der).encode()
    raise PinWrong(
        f"what answers at {address} is not the coordinator with the CA {pin}",
        hint="is the address right, and the pin whole? else somebody is between this machine and the coordinator",
    )


def _chain(address: str) -> Iterable[bytes]:
    """Certificates (DER) that the server shows. Nothing is verified here: the pin decides."""
    host, port = host_and_port(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout=_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            return _shown(secured)
    except OSError as error:  # ssl.SSLError is one
        raise CoordinatorSilent(
            f"no coordinator answers at {address}: {error}", hint="the address is that of [grpc] clients_bind"
        ) from error


def _shown(secured: ssl.SSLSocket) -> list[bytes]:
    public = getattr(secured, "get_unverified_chain", None)  # from Python 3.13 on, as bytes
    if public is not None:
        return [bytes(one) for one in public()]
    # Until then the same call is on the inner object only, and its certificates have to be asked for their DER form.
    inner = secured._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # noqa: SLF001
    return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in inner]


def _public_key_info(der: bytes) -> bytes:
    # Costs 12 MiB of memory, so whoever does not need it must not import it.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except ValueError:
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
