"""Calls into a provider, with a time limit, that fail in one way only: with a HostlerError."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import structlog

from hostler.errors import HostlerError
from providers.contract import ProviderError

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class ProviderBroken(ProviderError):
    """The provider failed in a way that it does not declare: a fault of its code."""

    code = HostlerError.code


async def guarded(what: str, call: Awaitable[T], *, seconds: float | None) -> T:
    """Await `call`; `what` names it in errors.

    Raises:
        HostlerError: the provider's own, or one for a late or an undeclared answer.
    """
    try:
        async with asyncio.timeout(seconds):
            return await call
    except HostlerError:
        raise
    except TimeoutError:
        raise ProviderError(f"the provider's {what} did not end in time") from None
    except Exception as error:
        _log.exception("provider broken", call=what)
        raise ProviderBroken(f"the provider's {what} failed: {type(error).__name__}: {error}") from error
