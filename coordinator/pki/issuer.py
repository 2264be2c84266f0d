"""Issues certificates as configured: to hosts that may have one, and to this coordinator's own listeners."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.pki import authority, names
from coordinator.pki.authority import Authority, AuthorityKept
from coordinator.pki.names import HostIdentity, NotAHost
from coordinator.store.enrolments import REVOKED
from coordinator.store.store import Store
from hostler.errors import HostlerError

AuthContext = Mapping[str, Iterable[bytes]]
_CERTIFICATE: Final = "x509_pem_cert"  # grpc.ServicerContext.auth_context: only of a peer that TLS has verified


class NotAdmitted(HostlerError):
    """A certificate that opens nothing (any more)."""

    code = "not_admitted"


class Peer(msgspec.Struct, frozen=True):
    """Who is at the other end, by its certificate."""

    identity: HostIdentity
    key: ec.EllipticCurvePublicKey
    expires_at: datetime


class Issued(msgspec.Struct, frozen=True):
    host: str
    certificate: bytes  # PEM
    life: timedelta


class Issuer:
    def __init__(self, store: Store, ca: Authority, life: timedelta, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._life = life
        self._clock = clock
        self.ca = ca

    def peer(self, context: AuthContext) -> Peer:
        """
        Raises:
            NotAHost: it showed no certificate of a host.
        """
        shown = next(iter(context.get(_CERTIFICATE, ())), None)
        if shown is None:
            raise NotAHost("no certificate was shown")
        certificate = x509.load_pem_x509_certificate(shown)
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise NotAHost("this certificate's key is of no kind that is issued here")
        try:
            extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            raise NotAHost("this certificate has no name") from None
        given = [str(name.value) for name in extension.value]
        return Peer(names.read(given, self.ca.controller_id), key, certificate.not_valid_after_utc)

    async def check(self, identity: HostIdentity) -> None:
        """Look into the database whether certificates of this enrolment still open anything.

        Raises:
            NotAdmitted: see there.
        """
        standing = await self._store.enrolments.standing(identity.enrolment)
        again = f"invite it again: hostler host invite {identity.host}"
        if standing is None or standing.host != identity.host:
            raise NotAdmitted(f"the enrolment of the host '{identity.host}' is not known here", hint=again)
        if standing.ended == REVOKED:
            raise revoked(identity.host, standing.ended_at)
        if standing.ended:
            raise NotAdmitted(f"the host '{identity.host}' was enrolled anew, and this certificate is over", hint=again)

    def issue(self, identity: HostIdentity, key: ec.EllipticCurvePublicKey) -> Issued:
        return Issued(identity.host, self.ca.for_host(identity, key, self._clock(), self._life), self._life)


def revoked(host: str, at: datetime | None = None) -> NotAdmitted:
    when = f" at {at:%Y-%m-%d %H:%M:%S} UTC" if at else ""
    return NotAdmitted(f"the host '{host}' was revoked{when}", hint=f"invite it again: hostler host invite {host}")


async def open_authority(store: Store) -> Authority:
    """The CA that all coordinators on this database share, made by the first of them."""

    def make() -> tuple[str, bytes]:
        made = authority.make(store.controller_id, store.now())
        return made.certificate, made.key

    certificate, key = await store.authority.load_or_keep(make)
    return Authority(AuthorityKept(certificate, key), store.controller_id)
