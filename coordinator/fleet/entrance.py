"""Whom a stream may speak for: on loopback for whom it says, by mutual TLS for the host of its certificate alone."""

from collections.abc import Awaitable, Callable, Set
from datetime import datetime
from typing import Any, Protocol

import msgspec

from coordinator.fleet.links import Links
from coordinator.pki.issuer import Issuer, NotAdmitted, Peer, revoked


class Pass(msgspec.Struct, frozen=True):
    """What a stream was let in with."""

    enrolment: str = ""  # empty: on loopback, without a certificate
    expires_at: datetime | None = None


class Entrance(Protocol):
    async def admit(self, context: Any, host: str) -> Pass:
        """
        Raises:
            HostlerError: the peer may not speak for `host`.
        """

    async def recheck(self, context: Any) -> None:
        """Once the stream is known as open: a revocation that came in between has not found it.

        Raises:
            HostlerError: as `admit`.
        """


class Loopback:
    """Whoever has an account on the coordinator's machine may run an agent, as he may use the admin client."""

    async def admit(self, context: Any, host: str) -> Pass:
        return Pass()

    async def recheck(self, context: Any) -> None:
        return


class Certified:
    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    async def admit(self, context: Any, host: str) -> Pass:
        peer = self._peer(context)
        if peer.identity.host != host:
            raise NotAdmitted(
                f"this certificate is for the host '{peer.identity.host}', not for '{host}'",
                hint="set [host] name of the agent to the name that it was enrolled with, or enrol it anew",
            )
        await self._issuer.check(peer.identity)
        return Pass(peer.identity.enrolment, peer.expires_at)

    async def recheck(self, context: Any) -> None:
        await self._issuer.check(self._peer(context).identity)

    def _peer(self, context: Any) -> Peer:
        return self._issuer.peer(context.auth_context())


class Revocations:
    """Ends streams here whose enrolments have ended."""

    def __init__(self, ended: Callable[[Set[str]], Awaitable[set[str]]], links: Links) -> None:
        """Args: ended: which of these enrolments have ended."""
        self._ended = ended
        self._links = links

    async def cut(self) -> None:
        certified = {link.enrolment: link for link in self._links.all() if link.enrolment}
        if not certified:
            return
        for enrolment in await self._ended(certified.keys()):
            link = certified[enrolment]
            link.close(revoked(link.host))
