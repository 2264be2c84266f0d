"""Reading TOML configuration into msgspec Structs, with errors that name file, key and what is allowed."""

import re
import tomllib
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from hostler.errors import ConfigError

T = TypeVar("T", bound=msgspec.Struct)

_AT = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`$")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_DEVICE_NAME = re.compile(r"[a-z][a-z0-9._-]{0,39}")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<field>[^`]*)`")


def load(path: Path, kind: type[T]) -> T:
    """Read and validate a TOML file.

    Raises:
        ConfigError: unreadable, not TOML, or a key that is unknown, missing or of a wrong value.
    """
    return parse(_text(path), kind, str(path))


def document(path: Path) -> dict[str, Any]:
    """What a TOML file says, for `convert`.

    Raises:
        ConfigError: unreadable, or not TOML.
    """
    return _parsed(_text(path), str(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", hint="name an existing file with --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def parse(text: str, kind: type[T], source: str) -> T:
    """Validate TOML text; `source` is what errors call it.

    Raises:
        ConfigError: as `load`.
    """
    return convert(_parsed(text, source), kind, source)


def _parsed(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from error


def convert(read: Any, kind: type[T], source: str) -> T:
    """Validate a parsed document.

    Raises:
        ConfigError: as `load`.
    """
    try:
        return msgspec.convert(read, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_explain(str(error), kind)}") from error


def _explain(message: str, kind: type[msgspec.Struct]) -> str:
    found = _AT.search(message)
    path = found["path"] if found else ""
    reason = message[: found.start()] if found else message
    unknown = _UNKNOWN.match(reason)
    if unknown:
        key = f"{path}.{unknown['field']}" if path else unknown["field"]
        allowed = ", ".join(_keys_at(kind, path))
        return f"key '{key}': unknown" + (f"; allowed here: {allowed}" if allowed else "")
    if reason.startswith("Invalid enum value"):
        reason += f"; allowed: {', '.join(_values_in(_type_at(kind, path)))}"
    return f"key '{path}': {reason}" if path else reason


def _type_at(kind: type[msgspec.Struct], path: str) -> Any:
    current: Any = msgspec.inspect.type_info(kind)
    for part in [p for p in re.split(r"\.|\[[^]]*\]", path) if p]:
        current = _step(current, part)
    return current


def _keys_at(kind: type[msgspec.Struct], path: str) -> list[str]:
    """The keys that the table at `path` may have; empty when the path leads to no table of ours."""
    info = _struct_in(_type_at(kind, path))
    return [field.encode_name for field in info.fields] if info else []


def _values_in(info: Any) -> list[str]:
    if isinstance(info, msgspec.inspect.EnumType):
        return [str(member.value) for member in info.cls]
    if isinstance(info, msgspec.inspect.UnionType):
        return [value for option in info.types for value in _values_in(option)]
    return [str(value) for value in getattr(info, "values", ())]


def _step(info: Any, part: str) -> Any:
    struct = _struct_in(info)
    if struct is None:
        return info
    return next((field.type for field in struct.fields if field.encode_name == part), info)


def _struct_in(info: Any) -> msgspec.inspect.StructType | None:
    if isinstance(info, msgspec.inspect.StructType):
        return info
    inner = getattr(info, "item_type", None) or getattr(info, "value_type", None)
    if inner is not None:
        return _struct_in(inner)
    for option in getattr(info, "types", ()):
        found = _struct_in(option)
        if found is not None:
            return found
    return None


def check(ok: bool, message: str) -> None:
    """For `__post_init__`: msgspec turns the ValueError into a ValidationError that carries the key's path."""
    if not ok:
        raise ValueError(message)


def host_and_port(value: str) -> tuple[str, int]:
    """Split `127.0.0.1:9997` or `[::1]:9997`.

    Raises:
        ValueError: not a host and a port.
    """
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not _is_host(host) or not port.isdecimal() or not port.isascii() or not 0 <= int(port) <= 65535:
        raise ValueError(f"'{value}' is not HOST:PORT, for example 127.0.0.1:9997")
    return host, int(port)


def _is_host(value: str) -> bool:
    """An address or something that may be a name; whether it is one shows when it is used."""
    try:
        ip_address(value)
    except ValueError:
        return _HOST.fullmatch(value) is not None
    return True


def host_name(value: str) -> None:
    """Check a name that a host, or what is called like one, goes by.

    Raises:
        ValueError: it is none.
    """
    if _HOST_NAME.fullmatch(value) is None:
        raise ValueError(f"'{value[:80]}' is not a host name; letters, digits, '-' and '.' are allowed")


def device_name(value: str) -> None:
    """Check the name that agents and flavors give a kind of device.

    Raises:
        ValueError: it is none.
    """
    if _DEVICE_NAME.fullmatch(value) is None:
        raise ValueError(
            f"'{value[:80]}' is no name of a device: 1 to 40 of a-z, 0-9, '-', '_' and '.', a letter first"
        )


def web_address(value: str) -> None:
    """Check an http or https URL without credentials, query and fragment.

    Raises:
        ValueError: it is none; credentials in it are not shown.
    """
    reason = "not an http or https address, for example https://host.example:8443"
    try:
        parts = urlsplit(value)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ValueError(reason) from None
    if "@" in parts.netloc:
        raise ValueError("must hold no user and no password")
    if not ok or parts.query or parts.fragment or not value.isprintable() or " " in value:
        raise ValueError(f"'{value}' is {reason}")


def is_loopback(host: str) -> bool:
    """Whether traffic to `host` cannot leave this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_key(name: str, validate: Callable[[], object]) -> None:
    """Run a validation and put the key's name into its error; for `__post_init__`."""
    try:
        validate()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
