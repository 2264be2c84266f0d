"""What all declarations have in common: unknown keys are refused, and values are checked when one is made."""

import re
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from hostler import config
from hostler.errors import ConfigError, HostlerError

# Never shown, never exported; one that a document leaves out stays as it is.
SECRET_KEYS: Final = frozenset({"token", "private_key", "webhook_secret", "password"})
TEXT_KEY: Final = "data"  # a script, of many lines
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Declared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything declared: unknown keys are refused."""


class Refused(HostlerError):
    """A declared object cannot be as it is.

    `place`: where it stands in a document, as table[index]; empty: in none.
    """

    place: str = ""


T = TypeVar("T", bound=msgspec.Struct)


def declaration(kind: type[T], values: Mapping[str, object]) -> T:
    """One object, from values that have the types of its keys.

    Raises:
        ConfigError: one of them is not allowed.
    """
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def changed_declaration(old: T, changes: Mapping[str, object]) -> T:
    """With some of its keys changed.

    Raises:
        ConfigError: the result is not allowed.
    """
    return declaration(type(old), msgspec.structs.asdict(old) | dict(changes))


def check_name(key: str, value: str) -> None:
    ok = bool(_NAME.fullmatch(value))
    config.check(ok, f"{key}: '{value}' must be 1 to 100 of letters, digits, '.', '_' and '-'")


def check_description(value: str) -> None:
    config.check(len(value) <= 1000, "description: must have at most 1000 characters")


def check_url(key: str, value: str) -> None:
    config.check_key(key, lambda: config.web_address(value))
    config.check(not value.endswith("/"), f"{key}: '{value}' must not end with a slash")
