"""Trying a transaction again that lost against another one."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

import sqlalchemy as sa
import structlog

from coordinator.store.postgres import sqlstate

log = structlog.get_logger()
P = ParamSpec("P")
R = TypeVar("R")

_TRIES: Final = 8
_FIRST_PAUSE_SECONDS: Final = 0.004
_LOST: Final = {
    "40001": "serialization failure",
    "40P01": "deadlock",
    "55P03": "lock not available",
    "23505": "unique violation",  # another one inserted what was not there when we looked
}


def retried(use_case: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Run a use case again, from its first statement, when PostgreSQL rolled it back in favour of another one.

    For functions whose one transaction is the last thing in them that can fail, and which until it is committed have
    changed nothing but the database. On SQLite, with its one writer, none of this happens.
    """

    @wraps(use_case)
    async def run(*args: P.args, **kwargs: P.kwargs) -> R:
        for tried in range(1, _TRIES):
            try:
                return await use_case(*args, **kwargs)
            except sa.exc.DBAPIError as error:
                reason = _LOST.get(sqlstate(error))
                if reason is None:
                    raise
                log.debug("a transaction is tried again", use_case=use_case.__qualname__, reason=reason, tried=tried)
            await asyncio.sleep((0.5 + secrets.randbelow(1000) / 2000) * _FIRST_PAUSE_SECONDS * 2**tried)
        return await use_case(*args, **kwargs)

    return run
