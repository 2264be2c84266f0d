"""The bearer tokens of instances: one machine, one purpose, dead when its runner is up."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import jwt

from coordinator.domain.fleet import Entity
from coordinator.domain.instance import Instance
from hostler.errors import HostlerError

_AUDIENCE: Final = "hostler:instance"
_ISSUER: Final = "hostler"
_GRACE: Final = timedelta(minutes=5)


class TokenInvalid(HostlerError):
    """A bearer token that opens nothing."""

    code = "token_invalid"


class Bearer(NamedTuple):
    """Whose token it is."""

    instance_id: str
    attempt: int  # the instance's generation when it was minted


class InstanceTokens:
    """Mints and reads them: HS256, with GARM's claims beside ours (runner API, instance JWT)."""

    def __init__(self, key: bytes, clock: Callable[[], datetime]) -> None:
        self._key = key
        self._clock = clock

    def mint(self, instance: Instance, entity: Entity) -> str:
        """Valid until five minutes after the instance's bootstrap time."""
        claims = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "exp": int((instance.bootstrap_deadline + _GRACE).timestamp()),
            "id": instance.id,
            "name": instance.name,
            "provider_id": instance.pool_id,
            "scope": entity.kind.value,
            "entity": entity.full_name,
            "create_attempt": instance.generation,
            "forge_type": "github",
            "is_agent": False,
        }
        return jwt.encode(claims, self._key, algorithm="HS256")

    def read(self, token: str) -> Bearer:
        """Whom the token was minted for.

        Raises:
            TokenInvalid: not ours, for another audience, or expired.
        """
        try:
            # The clock is ours, so the library must not look at its own.
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=["HS256"],
                audience=_AUDIENCE,
                issuer=_ISSUER,
                options={"require": ["exp", "id", "create_attempt"], "verify_exp": False},
            )
        except jwt.InvalidTokenError as error:
            raise TokenInvalid(f"the token is not valid: {error}") from None
        if self._clock().timestamp() >= claims["exp"]:
            raise TokenInvalid("the token has expired")
        if not isinstance(claims["create_attempt"], int):
            raise TokenInvalid("the token names no attempt")
        return Bearer(str(claims["id"]), claims["create_attempt"])
