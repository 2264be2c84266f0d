"""Handlers that serve several kinds of objects, each with the types that the document is to say of it."""

from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar, get_args

from litestar.params import JSONBody

_JSON: Final = get_args(JSONBody[object])[1]  # what the framework knows a body by
_Handler = TypeVar("_Handler", bound=Callable[..., Any])


def typed(*, body: Any = None, returns: Any = None) -> Callable[[_Handler], _Handler]:
    """Say of which type a handler's `data` is, and its answer: the framework reads both in its annotations."""
    told: dict[str, Any] = {} if body is None else {"data": Annotated[body, _JSON]}
    told |= {} if returns is None else {"return": returns}

    def change(handler: _Handler) -> _Handler:
        handler.__annotations__ |= told
        return handler

    return change
