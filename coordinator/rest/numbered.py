"""Finding what clients know by a number."""

from collections.abc import Iterable
from typing import Final, Protocol, TypeVar

from coordinator.rest.view import none

_LARGEST: Final = 2**31 - 1


class Numbered(Protocol):
    @property
    def number(self) -> int: ...


_One = TypeVar("_One", bound=Numbered)


def find(kind: str, number: int, among: Iterable[_One]) -> _One:
    """
    Raises:
        ApiError: 404, there is none.
    """
    for one in among:
        if one.number == number:
            return one
    raise none(kind, str(number))


def check(kind: str, number: int) -> None:
    """
    Raises:
        ApiError: 404, there can be none.
    """
    if not 0 < number <= _LARGEST:
        raise none(kind, str(number))
