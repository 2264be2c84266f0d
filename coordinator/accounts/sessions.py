"""What users get for their password, and scrapers of metrics from users: tokens that name their audience and end.

HS256, each kind with a key of its own, so that none opens what another is for. The claims that GARM's clients look at
are beside ours (GARM, auth/jwt.go).
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import jwt
import msgspec

from coordinator.tokens import TokenInvalid

_ISSUER: Final = "hostler"
_ADMIN: Final = "hostler:admin"
_METRICS: Final = "hostler:metrics"
SESSION: Final = timedelta(hours=24)
METRICS: Final = timedelta(days=365)


class Session(msgspec.Struct, frozen=True):
    """What a session's token says. Whether the user is still what it says is for the database to tell."""

    user_id: str
    generation: int


class Sessions:
    def __init__(
        self, admin_key: bytes, metrics_key: bytes, clock: Callable[[], datetime], new_id: Callable[[], str]
    ) -> None:
        self._admin_key = admin_key
        self._metrics_key = metrics_key
        self._clock = clock
        self._new_id = new_id

    def mint(self, user_id: str, generation: int, *, full_name: str, is_admin: bool) -> str:
        more = {"user": user_id, "generation": generation, "full_name": full_name, "is_admin": is_admin}
        return self._mint(self._admin_key, _ADMIN, SESSION, more)

    def read(self, token: str) -> Session:
        """
        Raises:
            TokenInvalid: not ours, for another audience, or expired.
        """
        claims = self._read(token, self._admin_key, _ADMIN)
        user, generation = claims.get("user"), claims.get("generation")
        if not isinstance(user, str) or not isinstance(generation, int):
            raise TokenInvalid("the token names no user")
        return Session(user, generation)

    def mint_for_metrics(self) -> str:
        return self._mint(self._metrics_key, _METRICS, METRICS, {"read_metrics": True})

    def check_for_metrics(self, token: str) -> None:
        """
        Raises:
            TokenInvalid: not ours, for another audience, or expired.
        """
        self._read(token, self._metrics_key, _METRICS)

    def _mint(self, key: bytes, audience: str, life: timedelta, more: dict[str, Any]) -> str:
        now = self._clock()
        claims = {
            "iss": _ISSUER,
            "aud": audience,
            "iat": int(now.timestamp()),
            "exp": int((now + life).timestamp()),
            "token_id": self._new_id(),
        }
        return jwt.encode(claims | more, key, algorithm="HS256")

    def _read(self, token: str, key: bytes, audience: str) -> dict[str, Any]:
        try:
            # The clock is ours, so the library must not look at its own.
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=["HS256"],
                audience=audience,
                issuer=_ISSUER,
                options={"require": ["exp"], "verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError as error:
            raise TokenInvalid(f"the token is not valid: {error}") from None
        if self._clock().timestamp() >= claims["exp"]:
            raise TokenInvalid("the token has expired")
        return claims
