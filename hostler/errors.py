"""The errors of Hostler: each says what happened and what to do, and has a code that programs may rely on."""

from typing import ClassVar


class HostlerError(Exception):
    """Base of every error that a person or another program may see.

    `code` is stable. `hint` says what to do about it; it may be given per raise.
    """

    code: ClassVar[str] = "internal"
    hint: str = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        if hint:
            self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message


class ConfigError(HostlerError):
    """A configuration file cannot be used."""

    code = "config_invalid"
