"""Trying a provider executable before anything is created: what it says of itself, its configuration and its pools."""

import asyncio
import json
import tomllib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from providers.contract import ProviderError
from providers.exec.environment import Command
from providers.exec.provider import ExecProvider
from providers.exec.settings import ExecSettings

_LONGEST_SECONDS: Final = 30.0  # somebody is waiting
_DESCRIBING: Final = "v0.1.1"  # the version that has the commands which describe; the older ones refuse it
_NO_POOL: Final = "hostler-check"  # a pool id goes along with everything, also where there is no pool yet
_SHOWN: Final = 200


class Verdict(StrEnum):
    OK = "ok"
    UNKNOWN = "unknown"  # the executable does not offer what would tell
    PROBLEM = "problem"


class Finding(msgspec.Struct, frozen=True):
    subject: str
    verdict: Verdict
    detail: str


class PoolSpecs(msgspec.Struct, frozen=True):
    """What is to be checked of a pool."""

    id: str
    name: str
    extra_specs: Mapping[str, Any]


async def check(settings: ExecSettings, controller_id: str, pools: Iterable[PoolSpecs]) -> list[Finding]:
    """Ask all that creates nothing. Nothing is raised for a bad provider: that is a finding."""
    return await _Check(settings, controller_id).run(list(pools))


class _Check:
    def __init__(self, settings: ExecSettings, controller_id: str) -> None:
        timeout = min(settings.timeout_seconds, _LONGEST_SECONDS)
        used = msgspec.structs.replace(settings, timeout_seconds=timeout)
        self._settings = used
        self._as_used = ExecProvider(used, controller_id)
        self._describing = ExecProvider(msgspec.structs.replace(used, interface_version=_DESCRIBING), controller_id)

    async def run(self, pools: list[PoolSpecs]) -> list[Finding]:
        found = [await self._version(), await self._interfaces(), await self._configuration()]
        schema = await self._schema(Command.EXTRA_SPECS_SCHEMA)
        for pool in pools:
            found.append(_compared(f"extra_specs of pool {pool.name}", schema, pool.extra_specs))
            found.append(await self._opinion(pool))
            found.append(await self._listing(f"machines of pool {pool.name}", pool.id, pool.extra_specs))
        if not pools:
            found.append(await self._listing("machines", _NO_POOL, {}))
        return found

    async def _version(self) -> Finding:
        try:
            said = await self._as_used.ask_itself(Command.VERSION, _NO_POOL)
        except ProviderError as error:
            return Finding("version", Verdict.UNKNOWN, str(error))
        return Finding("version", Verdict.OK, said.decode(errors="replace").strip()[:_SHOWN])

    async def _interfaces(self) -> Finding:
        subject, wanted = "interface version", self._settings.interface_version
        try:
            offered = msgspec.json.decode(
                await self._describing.ask_itself(Command.INTERFACES, _NO_POOL), type=list[str]
            )
        except (ProviderError, msgspec.DecodeError) as error:
            return Finding(subject, Verdict.UNKNOWN, f"{wanted} is used; which it knows, it does not tell: {error}")
        listed = ", ".join(offered)
        if wanted in offered:
            return Finding(subject, Verdict.OK, f"{wanted}; it knows {listed}")
        return Finding(subject, Verdict.PROBLEM, f"it knows {listed}: set interface_version, which is {wanted}")

    async def _configuration(self) -> Finding:
        schema = await self._schema(Command.CONFIG_SCHEMA)
        path = Path(self._settings.config_file)
        try:
            document = tomllib.loads(await asyncio.to_thread(path.read_text))
        except (OSError, UnicodeDecodeError) as error:
            return Finding("config_file", Verdict.PROBLEM, f"{path} cannot be read: {error}")
        except tomllib.TOMLDecodeError as error:
            # Known executables read TOML; one that asks for it by a schema means this file.
            verdict = Verdict.UNKNOWN if isinstance(schema, str) else Verdict.PROBLEM
            return Finding("config_file", verdict, f"{path} is not TOML: {error}")
        return _compared("config_file", schema, document)

    async def _schema(self, command: Command) -> dict[str, Any] | str:
        """The schema, or why there is none."""
        try:
            return msgspec.json.decode(await self._describing.ask_itself(command, _NO_POOL), type=dict[str, Any])
        except ProviderError as error:
            return f"no schema is offered: {error}"
        except msgspec.DecodeError as error:
            return f"what is offered as a schema is not one: {error}"

    async def _opinion(self, pool: PoolSpecs) -> Finding:
        """The shared library of executables leaves image and flavor empty here, so that a refusal may mean nothing."""
        subject = f"opinion of pool {pool.name}"
        try:
            await self._describing.ask_itself(Command.VALIDATE_POOL, pool.id, pool.extra_specs)
        except ProviderError as error:
            return Finding(subject, Verdict.UNKNOWN, str(error))
        return Finding(subject, Verdict.OK, "it has nothing against it")

    async def _listing(self, subject: str, pool_id: str, extra_specs: Mapping[str, Any]) -> Finding:
        """The one call that every executable has, creates nothing and needs the cloud."""
        try:
            machines = await self._as_used.list(pool_id, extra_specs or None)
        except ProviderError as error:
            return Finding(subject, Verdict.PROBLEM, str(error))
        return Finding(subject, Verdict.OK, f"{len(machines)} listed")


def _compared(subject: str, schema: dict[str, Any] | str, document: Mapping[str, Any]) -> Finding:
    if isinstance(schema, str):
        return Finding(subject, Verdict.UNKNOWN, schema)
    try:
        kind = validator_for(schema)
        kind.check_schema(schema)
        # A registry of its own: without one, a schema could have us fetch whatever address it names.
        errors = sorted(kind(schema, registry=Registry()).iter_errors(document), key=lambda error: error.json_path)
    except (SchemaError, Unresolvable) as error:
        return Finding(subject, Verdict.UNKNOWN, f"the schema it offers cannot be used: {str(error)[:_SHOWN]}")
    if not errors:
        return Finding(subject, Verdict.OK, "fits the schema")
    return Finding(subject, Verdict.PROBLEM, "; ".join(map(_told, errors)))


def _told(error: ValidationError) -> str:
    """Names keys and what is asked of them, never a value: it may be a password."""
    where = error.json_path.removeprefix("$.")
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
        unknown = ", ".join(sorted(set(error.instance) - set(known)))
        return f"{where}: it knows no {unknown}"
    asked = error.validator_value
    if error.validator == "required" and isinstance(error.instance, dict) and isinstance(asked, list):
        missing = ", ".join(key for key in asked if key not in error.instance)
        return f"{where}: {missing} must be given"
    return f"{where}: {error.validator} must be {json.dumps(asked)[:_SHOWN]}"
