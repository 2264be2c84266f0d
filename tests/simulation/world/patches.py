"""What is put in place of the coordinator's edges while a run lasts: SQLite's threads, the forge, processes, clocks."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import aiosqlite.core
import sqlalchemy as sa
import tenacity

from coordinator.forges import forges
from coordinator.http import app
from coordinator.store.database import Database
from providers.exec import claims, process
from tests.simulation.world.life import CURRENT, InlineConnection


class Recorder:
    """In place of the coordinator's loggers: what it warns of goes to the log of the run."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self._tell = tell

    def debug(self, event: str, **more: Any) -> None:
        """Of no interest."""

    def info(self, event: str, **more: Any) -> None:
        """Of no interest."""

    def warning(self, event: str, **more: Any) -> None:
        self._write("warning", event, more)

    def error(self, event: str, **more: Any) -> None:
        self._write("error", event, more)

    def exception(self, event: str, **more: Any) -> None:
        error = sys.exc_info()[1]
        self._write("exception", event, {**more, "error": f"{type(error).__name__}: {error}"})

    def _write(self, level: str, event: str, more: dict[str, Any]) -> None:
        life = CURRENT.get()
        if life is not None and life.alive:
            told = " ".join(f"{name}={value}" for name, value in sorted(more.items()))
            self._tell(level, f"{event} {told}".rstrip())


async def _at_once(self: Database, transaction: Callable[[sa.Connection], Any]) -> Any:
    """Over the connection of which a life knows."""
    async with self.write() as connection:
        return await connection.run_sync(transaction)


@contextmanager
def simulated(
    seed: int,
    *,
    time: Callable[[], float],
    client: Callable[..., Any],
    run_process: Callable[..., Any],
    claims_of: Callable[..., Any],
    tell: Callable[[str, str], None],
) -> Iterator[None]:
    """Everything real again afterwards."""
    state = random.getstate()
    random.seed(seed)  # the retrying library takes its jitter from here
    with ExitStack() as stack:
        patch = mock.patch.object
        stack.enter_context(patch(aiosqlite.core, "Connection", InlineConnection))
        stack.enter_context(patch(Database, "at_once", _at_once))
        stack.enter_context(patch(tenacity, "time", SimpleNamespace(monotonic=time)))
        stack.enter_context(patch(forges, "GitHub", client))
        stack.enter_context(patch(process, "run", run_process))
        stack.enter_context(patch(claims, "Claims", claims_of))
        stack.enter_context(patch(app, "public", lambda webhooks, *_: webhooks))
        stack.enter_context(patch(app, "for_machines", lambda runner_api: runner_api))
        recorder = Recorder(tell)
        for name, module in list(sys.modules.items()):
            if name.startswith("coordinator.") and hasattr(module, "log"):
                stack.enter_context(patch(module, "log", recorder))
        try:
            yield
        finally:
            random.setstate(state)
