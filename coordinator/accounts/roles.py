"""Roles of users and scopes of tokens, and who acts. Pure but for the context variable."""

from contextvars import ContextVar
from enum import StrEnum
from typing import Final

import msgspec


class Role(StrEnum):
    """What somebody may do; each includes those before it."""

    VIEWER = "viewer"  # look at everything but secrets, tokens and users
    OPERATOR = "operator"  # run the fleet: hosts, instances, images
    ADMIN = "admin"  # change what is declared, and who may speak here

    def includes(self, other: "Role") -> bool:
        return _RANK[self] >= _RANK[other]


_RANK: Final = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}


class Actor(msgspec.Struct, frozen=True):
    """Who asks for something, as the audit log names them."""

    name: str  # `user:NAME`, `token:NAME`, `first-run` or `local`
    role: Role
    via: str  # rest or grpc


LOCAL: Final = Actor("local", Role.ADMIN, "grpc")
"""Whoever may use the coordinator's own machine: its plain listener asks for no token."""

acting: Final[ContextVar[Actor]] = ContextVar("acting", default=LOCAL)
"""Set where a request comes in, read where a change is committed: every layer between would only pass it on."""
