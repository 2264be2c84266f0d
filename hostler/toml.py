"""TOML text of what was read or is to be read as TOML."""

import json
import re
from collections.abc import Mapping
from datetime import date, time
from typing import Any


def written(document: Mapping[str, Any]) -> str:
    """TOML of a parsed document: one line a top-level key, tables inline. For programs, not for people."""
    return "".join(f"{_string(key)} = {value(of)}\n" for key, of in document.items())


def value(of: Any) -> str:
    """One value, in one line."""
    match of:
        case bool():
            return str(of).lower()
        case str():
            return _string(of)
        case int() | float():
            return repr(of)
        case date() | time():  # a datetime is a date
            return of.isoformat()
        case list():
            return f"[{', '.join(map(value, of))}]"
        case dict():
            return f"{{{', '.join(f'{_string(key)} = {value(element)}' for key, element in of.items())}}}"
        case _:
            raise TypeError(f"TOML has no {type(of).__name__}")


def pair(key: str, of: Any) -> str:
    """A line that sets one key, which needs no quotes."""
    return f"{key} = {value(of)}\n"


def lines(key: str, text: str) -> str:
    """Sets one key, which needs no quotes, to a text of many lines, as people read it."""
    escaped = _NOT_IN_LINES.sub(lambda found: _string(found[0])[1:-1], text)
    return f'{key} = """\n{escaped}"""\n'


# But for tabs and line feeds; two quotes could be the end, and one at the end would be a part of it.
_NOT_IN_LINES = re.compile(r'[\\\x00-\x08\x0b-\x1f\x7f]|"(?="|\Z)')


def _string(text: str) -> str:
    # A JSON string is a TOML string, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
