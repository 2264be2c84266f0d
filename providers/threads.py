"""Blocking jobs of a provider: off the event loop, a bounded number at once, and waited for even when cancelled."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from providers.contract import ProviderError

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    def __init__(self, name: str, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking job in a thread.

        A thread cannot be cancelled: when this task is, the job is waited for, so that what it made can be removed.

        Raises:
            ProviderError: the job failed, also for an error of the operating system.
        """

        def translated() -> T:
            try:
                return job(*args, **kwargs)
            except OSError as error:
                where = f"{error.filename}: " if error.filename else ""
                raise ProviderError(
                    f"{where}{error.strerror or error}", hint="see the space left and the permissions there"
                ) from error

        future = asyncio.get_running_loop().run_in_executor(self._pool, translated)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def start(self, job: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run a job that nobody waits for."""
        self._pool.submit(job, *args, **kwargs)
