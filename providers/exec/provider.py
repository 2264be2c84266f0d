"""The exec provider: one process of the executable per call, its exit code and output judged by GARM's contract."""

import asyncio
import errno
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, TypeVar

from providers.contract import ProviderError
from providers.exec import answer, claims, process
from providers.exec.environment import NAMES_INSTANCE, Call, Command, build, passed_on
from providers.exec.errors import (
    ExecError,
    InstanceExists,
    InstanceFaulty,
    InstanceNotFound,
    ProviderAnswerInvalid,
    ProviderCommandFailed,
    ProviderNotStarted,
    ProviderTimeout,
    RequestInvalid,
    StillMaking,
)
from providers.exec.mask import Mask, secrets_of_environment, secrets_of_spec, secrets_of_specs
from providers.exec.settings import ExecSettings
from providers.exec.spec import CloudInstance, CloudSpec

T = TypeVar("T")
ExtraSpecs = Mapping[str, Any] | None

_QUOTED_CHARACTERS = 2000
_TOO_LARGE = "an environment variable holds at most 128 KiB: make the pool's extra_specs smaller"
_NOT_FOUND: Final = 30
_DUPLICATE: Final = 31

# Exit 30 of a create is missing on purpose: some executables mean by it an unknown image or profile.
_MEANING: Final[dict[tuple[Command, int], type[ExecError]]] = {
    (Command.CREATE, _DUPLICATE): InstanceExists,
    (Command.DELETE, _NOT_FOUND): InstanceNotFound,
    (Command.GET, _NOT_FOUND): InstanceNotFound,
    (Command.START, _NOT_FOUND): InstanceNotFound,
    (Command.STOP, _NOT_FOUND): InstanceNotFound,
}


class ExecProvider:
    """Instances of one cloud. `instance` is a provider id or a name in every method.

    At most `max_concurrent` processes run at once; the deadline of a call begins when its process starts.
    All methods raise ExecError, see errors.py. A cancelled call has its processes killed and is not cleaned up after:
    whoever cancels a create deletes the instance by name later.
    """

    def __init__(
        self,
        settings: ExecSettings,
        controller_id: str,
        calls: Path | None = None,
        watched: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """
        Args:
            calls: a directory of this machine in which it is noted which instances are being made.
            watched: entered around each call, and left by whatever it raises.
        """
        self.settings = settings
        self._claims = claims.Claims(calls)
        self._controller_id = controller_id
        self._watched = watched
        self._slots = asyncio.Semaphore(settings.max_concurrent)

    async def create(self, spec: CloudSpec, *, clean_up: bool = True) -> CloudInstance:
        """Make an instance. When that fails, what may have been made is deleted by name before the error goes up.

        `clean_up=False` leaves that to the caller, who may know that the instance is in use all the same.

        Raises:
            InstanceExists: there was one of that name already; it is left alone, for it may be running a job.
            ExecError: with `left_behind` set when the deletion failed as well.
        """
        spec.check()
        secrets = secrets_of_spec(spec)
        call = Call(command=Command.CREATE, pool_id=spec.pool_id, extra_specs=spec.extra_specs or None)
        made = spec.name
        try:
            read = _required(answer.read_instance)
            created = await self._ask(call, read, stdin=spec.encode(), secrets=secrets, claim=spec.name)
            made = created.provider_id
            if created.status == "error":
                raise self._faulty(created, secrets)
        except (InstanceExists, ProviderNotStarted, RequestInvalid, StillMaking):
            raise
        except ExecError as error:
            if clean_up:
                error.left_behind = await self._delete_failed(made, spec, secrets)
            raise
        return created

    def is_making(self, name: str) -> bool:
        """Whether a process that was begun on this machine, by whatever life of the coordinator, still makes it."""
        return self._claims.is_held(name, self.settings.timeout_seconds)

    async def delete(self, instance: str, pool_id: str, extra_specs: ExtraSpecs) -> None:
        """Destroy an instance. Absent already: fine."""
        await self._delete(instance, pool_id, extra_specs, secrets=set())

    async def get(self, instance: str, pool_id: str, extra_specs: ExtraSpecs) -> CloudInstance:
        """Look at one instance.

        Raises:
            InstanceNotFound: the executable says so. Some only fail with exit code 1 then: ProviderCommandFailed.
        """
        found = await self._ask(_about(Command.GET, instance, pool_id, extra_specs), answer.read_instance)
        if found is None:
            raise InstanceNotFound(f"provider '{self.settings.name}': there is no instance '{instance}'")
        return found

    async def list(self, pool_id: str, extra_specs: ExtraSpecs) -> list[CloudInstance]:
        """All instances of a pool."""
        return await self._ask(_about(Command.LIST, "", pool_id, extra_specs), answer.read_instances)

    async def start(self, instance: str, pool_id: str, extra_specs: ExtraSpecs) -> None:
        """Start a stopped instance."""
        await self._call(_about(Command.START, instance, pool_id, extra_specs))

    async def stop(self, instance: str, pool_id: str, extra_specs: ExtraSpecs) -> None:
        """Stop a running instance and keep it."""
        await self._call(_about(Command.STOP, instance, pool_id, extra_specs))

    async def remove_all(self, pool_id: str, extra_specs: ExtraSpecs) -> None:
        """Destroy every instance: of the pool where the executable looks at it, of the whole controller where not."""
        await self._call(_about(Command.REMOVE_ALL, "", pool_id, extra_specs))

    async def ask_itself(self, command: Command, pool_id: str, extra_specs: ExtraSpecs = None) -> bytes:
        """What the executable prints about itself, or its opinion of a pool. Many offer none of these commands."""
        return await self._call(_about(command, "", pool_id, extra_specs))

    async def _delete(self, instance: str, pool_id: str, extra_specs: ExtraSpecs, *, secrets: set[str]) -> None:
        try:
            await self._call(_about(Command.DELETE, instance, pool_id, extra_specs), secrets=secrets)
        except InstanceNotFound:
            return

    async def _delete_failed(self, instance: str, spec: CloudSpec, secrets: set[str]) -> ProviderError | None:
        try:
            await self._delete(instance, spec.pool_id, spec.extra_specs or None, secrets=secrets)
        except ExecError as error:
            return error
        return None

    async def _ask(
        self,
        call: Call,
        read: Callable[[bytes], T],
        *,
        stdin: bytes = b"",
        secrets: set[str] | None = None,
        claim: str = "",
    ) -> T:
        with self._watched():
            stdout, mask = await self._run(call, stdin=stdin, secrets=secrets, claim=claim)
            try:
                return read(stdout)
            except ValueError as error:
                printed = _shortened(mask(stdout.decode(errors="replace")))
                raise ProviderAnswerInvalid(f"{self._named(call)}: {mask(str(error))}; it printed: {printed}") from None

    async def _call(self, call: Call, *, secrets: set[str] | None = None) -> bytes:
        """A call whose answer is nothing, or not JSON; returns standard output."""
        with self._watched():
            stdout, _ = await self._run(call, secrets=secrets)
            return stdout

    async def _run(
        self, call: Call, *, stdin: bytes = b"", secrets: set[str] | None = None, claim: str = ""
    ) -> tuple[bytes, Mask]:
        """Returns standard output, and the mask for whoever wants to quote it. `claim`: the instance that it makes."""
        self._check(call)
        environment = build(self.settings, self._controller_id, call, os.environ)
        passed = secrets_of_environment(passed_on(self.settings, os.environ)) | secrets_of_specs(call.extra_specs)
        mask = Mask((secrets or set()) | passed)
        async with self._slots:
            try:
                with self._claims.claim(claim) if claim else nullcontext(()) as inherited:
                    finished = await process.run(
                        self.settings.executable, environment, stdin, self.settings.timeout_seconds, inherited
                    )
            except OSError as error:
                reason = f"{self._named(call)}: '{self.settings.executable}' cannot be started: {error.strerror}"
                raise ProviderNotStarted(reason, hint=_TOO_LARGE if error.errno == errno.E2BIG else "") from error
        self._judge(call, finished, mask)
        return finished.stdout, mask

    def _check(self, call: Call) -> None:
        if not call.pool_id:
            raise RequestInvalid(f"{self._named(call)}: no pool id was given")
        if not call.instance and call.command in NAMES_INSTANCE:
            raise RequestInvalid(f"{self._named(call)}: no instance was named")

    def _judge(self, call: Call, finished: process.Finished, mask: Mask) -> None:
        code = finished.exit_code
        stderr = mask(finished.stderr.decode(errors="replace"), cut=finished.stderr_cut)
        if finished.ending is process.Ending.TIMED_OUT:
            what = f"{self._named(call)} was not done after {self.settings.timeout_seconds:g} s and was killed"
            if code is not None:
                what += (
                    f"; the executable itself had ended with exit code {code}, a process it left kept its output open"
                )
            raise ProviderTimeout(f"{what}{_quoted(stderr)}", exit_code=code, stderr=stderr)
        if finished.ending is process.Ending.TOO_MUCH_OUTPUT:
            what = f"{self._named(call)} printed more than {process.STDOUT_LIMIT_BYTES} bytes and was killed"
            raise ProviderAnswerInvalid(f"{what}{_quoted(stderr)}", exit_code=code, stderr=stderr)
        if code:
            kind = _MEANING.get((call.command, code), ProviderCommandFailed)
            said = stderr if stderr.strip() else mask(finished.stdout.decode(errors="replace"))
            raise kind(f"{self._named(call)} {_ended(code)}{_quoted(said)}", exit_code=code, stderr=stderr)

    def _faulty(self, created: CloudInstance, secrets: set[str]) -> InstanceFaulty:
        mask = Mask(secrets | secrets_of_environment(passed_on(self.settings, os.environ)))
        fault = _quoted(mask(created.provider_fault.decode(errors="replace")))
        return InstanceFaulty(f"provider '{self.settings.name}': '{created.name}' was made in status error{fault}")

    def _named(self, call: Call) -> str:
        subject = f" of '{call.instance}'" if call.instance else f" for pool '{call.pool_id}'"
        return f"provider '{self.settings.name}': {call.command}{subject}"


def _about(command: Command, instance: str, pool_id: str, extra_specs: ExtraSpecs) -> Call:
    return Call(command=command, pool_id=pool_id, extra_specs=extra_specs, instance=instance)


def _required(read: Callable[[bytes], T | None]) -> Callable[[bytes], T]:
    def reading(stdout: bytes) -> T:
        value = read(stdout)
        if value is None:
            raise ValueError("the answer describes no instance")
        return value

    return reading


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by signal {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _quoted(text: str) -> str:
    return f": {_shortened(text)}" if text.strip() else ""


def _shortened(text: str) -> str:
    """The end of a text, where the reason usually stands."""
    stripped = text.strip()
    return stripped if len(stripped) <= _QUOTED_CHARACTERS else f"…{stripped[-_QUOTED_CHARACTERS:]}"
