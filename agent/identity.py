"""What this host proves itself with: key, certificate and whom to call, in one file that its user alone may read."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from hostler.errors import HostlerError

FILE: Final = "identity.json"


class IdentityUnusable(HostlerError):
    """The file is damaged, or others may read it."""

    code = "identity_unusable"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    agents_address: str  # HOST:PORT
    ca: str  # PEM
    certificate: str  # PEM
    key: str  # PEM: never leaves this host
    received_at: datetime  # by this host's clock, as is the next
    expires_at: datetime

    def expired(self, now: datetime) -> bool:
        return now >= self.expires_at

    def renew_at(self, chance: float) -> datetime:
        """At two thirds of its life, and up to a twentieth of it sooner: hosts enrolled together come one by one.

        Args:
            chance: from 0 to 1.
        """
        life = self.expires_at - self.received_at
        return self.received_at + life * 2 / 3 - life * chance / 20


def load(directory: Path) -> Identity | None:
    """What this host was given; None: it is not enrolled.

    Raises:
        IdentityUnusable: see there.
    """
    path = directory / FILE
    try:
        if path.stat().st_mode & 0o077:
            raise IdentityUnusable(f"{path}: others than its owner may read it", hint=f"chmod 600 {path}")
        return msgspec.json.decode(path.read_bytes(), type=Identity)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise IdentityUnusable(f"{path}: cannot be read: {error}", hint="remove it and enrol this host anew") from error


def save(directory: Path, identity: Identity) -> None:
    """Whole or not at all: key and certificate always fit each other.

    Raises:
        IdentityUnusable: it cannot be written.
    """
    path = directory / FILE
    fresh = path.with_suffix(".new")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # where an earlier try left the file
            owner = directory.stat()
            if os.geteuid() == 0:  # root enrols for the user that the agent runs as
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(msgspec.json.encode(identity))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise IdentityUnusable(f"{path}: cannot be written: {error.strerror}") from error


def made(
    *, host: str, address: str, ca: bytes, certificate: bytes, key: str, life_seconds: int, now: datetime | None = None
) -> Identity:
    """From what the coordinator answered."""
    received_at = now or datetime.now(UTC)
    return Identity(
        host=host,
        agents_address=address,
        ca=ca.decode(),
        certificate=certificate.decode(),
        key=key,
        received_at=received_at,
        expires_at=received_at + timedelta(seconds=life_seconds),
    )
