"""Whom the packet filter admits, kept in a file: LXD says it too, but not before it answers."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from providers.isolation import Guest

_log = structlog.get_logger(__name__)


class Remembered:
    """Blocks; `save` is not to be called twice at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved: dict[str, Guest] | None = None

    def load(self) -> dict[str, Guest]:
        """Nobody, where there is no file or none that can be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Guest], dec_hook=_address)
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("guests_unreadable", path=str(self._path), error=str(error))
            return {}

    def save(self, guests: Mapping[str, Guest]) -> None:
        """Whole or not at all: what cannot be written is nobody, and hinders no rules. Nobody has no file.

        It need not outlive the power, since no machine does.
        """
        if guests == self._saved:
            return
        self._saved = None
        draft = self._path.with_suffix(".new")
        try:
            if guests:
                draft.write_bytes(msgspec.json.encode(guests, enc_hook=str))  # addresses as they are written
                draft.rename(self._path)
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("guests_not_remembered", path=str(self._path), error=str(error))
            with contextlib.suppress(OSError):
                self._path.unlink()
            return
        self._saved = dict(guests)


def _address(kind: type, text: Any) -> Any:
    return kind(text)  # those of `ipaddress`; what they cannot read is a ValueError, which msgspec tells as its own
