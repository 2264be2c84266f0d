"""Makes a key and a request to certify it, in a process of its own: cryptography would cost the agent 12 MiB for ever.

`python -m agent.newkey` writes both as PEM, the key first, to standard output.
"""

import asyncio
import sys
from typing import Final

import msgspec

from hostler.errors import HostlerError

_REQUEST: Final = "-----BEGIN CERTIFICATE REQUEST-----"


class KeyNotMade(HostlerError):
    code = "key_not_made"


class NewKey(msgspec.Struct, frozen=True):
    key: str  # PEM: a secret
    csr: bytes  # PEM


async def make() -> NewKey:
    """
    Raises:
        KeyNotMade: the process failed.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "agent.newkey",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, errors = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    key, marker, rest = said.decode().partition(_REQUEST)
    if process.returncode != 0 or not marker:
        raise KeyNotMade(f"a new key could not be made: {errors.decode(errors='replace').strip()[-500:]}")
    return NewKey(key, (marker + rest).encode())


def _main() -> None:
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())  # gRPC's BoringSSL takes no Ed25519
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    sys.stdout.buffer.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    sys.stdout.buffer.write(csr.public_bytes(Encoding.PEM))


if __name__ == "__main__":
    _main()
