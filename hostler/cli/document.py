"""The document of `hostler apply`: read, and its secrets fetched from files and environment.

What the tables mean is the coordinator's to say.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hostler import toml
from hostler.errors import ConfigError

SECRETS = ("token", "webhook_secret", "private_key", "ca_bundle", "password")


def resolved(path: Path, environment: Mapping[str, str] = os.environ) -> str:
    """The document with `token_file`, `token_env` and their like, and `data_file` of templates, replaced by what they
    name.

    Paths count from the document's folder.

    Raises:
        ConfigError: the document or a secret cannot be had; the text names the key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    resolver = _Resolver(path, environment)
    texts = {key: resolver.texts(value, key) if key in _TEXTS else value for key, value in document.items()}
    return toml.written(resolver.table(texts, ""))


class _Resolver:
    def __init__(self, document: Path, environment: Mapping[str, str]) -> None:
        self._document = document
        self._environment = environment

    def table(self, table: Mapping[str, Any], at: str) -> dict[str, Any]:
        plain = {key: value for key, value in table.items() if key not in _SOURCES}
        made = {key: self._value(value, f"{at}{key}") for key, value in plain.items()}
        for secret in SECRETS:
            named = [key for key in (secret, f"{secret}_file", f"{secret}_env") if key in table]
            if len(named) > 1:
                raise self._error(f"{at}{secret}", f"given more than once ({', '.join(named)}); keep one of them")
            if named and named[0] in _SOURCES:
                made[secret] = self._secret(named[0], table[named[0]], f"{at}{named[0]}")
        return made

    def texts(self, tables: Any, at: str) -> Any:
        """With the texts that its tables may name by a file."""
        if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
            return tables  # whoever takes the document says what is wrong
        return [self._with_text(one, f"{at}[{index}].{_TEXTS[at]}", _TEXTS[at]) for index, one in enumerate(tables)]

    def _with_text(self, table: Mapping[str, Any], at: str, key: str) -> Mapping[str, Any]:
        source = table.get(f"{key}_file")
        if source is None:
            return table
        if key in table:
            raise self._error(at, f"given more than once ({key}, {key}_file); keep one of them")
        plain = {one: value for one, value in table.items() if one != f"{key}_file"}
        return plain | {key: self._file(self._named(source, f"{at}_file"), f"{at}_file")}

    def _value(self, value: Any, at: str) -> Any:
        if isinstance(value, dict):
            return self.table(value, f"{at}.")
        if isinstance(value, list):
            return [self._value(element, f"{at}[{index}]") for index, element in enumerate(value)]
        return value

    def _secret(self, key: str, source: Any, at: str) -> str:
        source = self._named(source, at)
        secret = self._from_file(source, at) if key.endswith("_file") else self._from_environment(source, at)
        if not secret:
            raise self._error(at, f"'{source}' is empty")
        return secret

    def _named(self, source: Any, at: str) -> str:
        if not isinstance(source, str) or not source:
            raise self._error(at, "must be the name of a file or of an environment variable, in quotes")
        return source

    def _from_file(self, source: str, at: str) -> str:
        return self._file(source, at).rstrip("\r\n")

    def _file(self, source: str, at: str) -> str:
        path = self._document.parent / source
        try:
            with path.open(encoding="utf-8", newline="") as file:
                return file.read()
        except FileNotFoundError:
            raise self._error(at, f"there is no file '{path}'; write it") from None
        except UnicodeDecodeError:
            raise self._error(at, f"'{path}' holds something else than text") from None
        except (OSError, ValueError) as error:
            raise self._error(at, f"'{path}' cannot be read: {error}") from None

    def _from_environment(self, source: str, at: str) -> str:
        if source not in self._environment:
            raise self._error(at, f"environment variable '{source}' is not set; export it first")
        secret = self._environment[source]
        if not secret.isascii() and any("\ud800" <= character <= "\udfff" for character in secret):
            raise self._error(at, f"environment variable '{source}' holds something else than text")
        return secret

    def _error(self, at: str, reason: str) -> ConfigError:
        return ConfigError(f"{self._document}: key '{at}': {reason}")


_TEXTS: Final = {"template": "data"}  # by table: what is no secret, and has many lines
_SOURCES = frozenset(f"{secret}_{source}" for secret in SECRETS for source in ("file", "env"))
