"""All that is declared, written as a document that declares it: what `hostler export` prints. Pure."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from coordinator.declare_base import SECRET_KEYS, TEXT_KEY
from coordinator.declare_plan import KINDS, AnyDeclared, Declarations
from hostler import toml

_HEAD: Final = """\
# All that is declared. Secrets are left out, and where one is left out it stays as it is:
# a coordinator that does not know it yet is told by KEY_file, KEY_env or KEY.
"""


def exported(there: Declarations) -> str:
    """TOML, in an order that stays the same; applied where it comes from, it changes nothing."""
    tables = (_table(kind, declared) for kind in KINDS for declared in there.get(kind, {}).values())
    return "\n".join([_HEAD, *tables])


def keys(kind: type[msgspec.Struct]) -> list[str]:
    """What a document of that kind may say, as table.key."""
    tables = msgspec.inspect.type_info(kind)
    assert isinstance(tables, msgspec.inspect.StructType)  # noqa: S101  (for the type checker)
    return [f"{table.encode_name}.{key}" for table in tables.fields for key in _keys(table.type)]


def _keys(table: msgspec.inspect.Type) -> Iterator[str]:
    if isinstance(table, msgspec.inspect.ListType) and isinstance(table.item_type, msgspec.inspect.StructType):
        yield from (field.encode_name for field in table.item_type.fields)


def _table(kind: str, declared: AnyDeclared) -> str:
    lines = (_line(key, value, default) for key, value, default in _values(declared))
    return f"[[{kind}]]\n" + "".join(lines)


def _values(declared: AnyDeclared) -> Iterator[tuple[str, Any, Any]]:
    for field in msgspec.structs.fields(declared):
        default = field.default_factory() if callable(field.default_factory) else field.default
        yield field.name, getattr(declared, field.name), default


def _line(key: str, value: Any, default: Any) -> str:
    if key in SECRET_KEYS:
        return f'# {key}_file = "FILE"\n' if value else ""
    if value is None or value == default:
        return ""
    if key == TEXT_KEY:
        return toml.lines(key, value)
    if key == "extra_specs" and _needs_json(value):
        return toml.pair("extra_specs_json", msgspec.json.encode(value).decode())
    return toml.pair(key, msgspec.to_builtins(value))


def _needs_json(value: Any) -> bool:
    """TOML has no null, and `hostler apply` would replace what looks like a reference to a secret."""
    if isinstance(value, dict):
        return not _REFERENCES.isdisjoint(value) or any(map(_needs_json, value.values()))
    return any(map(_needs_json, value)) if isinstance(value, list) else value is None


_REFERENCES: Final = frozenset(f"{key}_{source}" for key in (*SECRET_KEYS, "ca_bundle") for source in ("file", "env"))
