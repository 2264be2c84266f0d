"""Work in flight: each errand runs once at a time, and never stops the process when it fails."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

log = structlog.get_logger()


class Errands:
    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[None]] = {}

    def ensure(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        """Run it, unless an errand of that key is under way."""
        if key in self._running:
            work.close()
            return
        self._running[key] = asyncio.create_task(self._run(key, work), name=f"errand {key}")

    async def _run(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            log.exception("errand failed", errand=key)
        finally:
            del self._running[key]

    async def close(self) -> None:
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
