"""What is declared of forges beside tokens: the key of a GitHub App, and a CA's certificate."""

from datetime import UTC, datetime
from functools import cache

from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from coordinator.pki import authority


@cache
def app_key() -> str:
    """PEM, as GitHub gives it."""
    key = generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


@cache
def ca_certificate() -> str:
    """PEM."""
    return authority.make("test", datetime(2026, 1, 1, tzinfo=UTC)).certificate
