"""Images of the catalogue on one host of a world: what it has outlives its agent, what it was fetching does not."""

import asyncio
import random
from collections.abc import Callable
from typing import Final

from protos.hostler.v1 import fleet_pb2 as pb
from tests.simulation.world.scenario import Faults

CODE: Final = "image_fetch_failed"


class HostImages:
    """Says how it stands by `tell`; each image is fetched once, however many wait for it."""

    def __init__(
        self,
        faults: Callable[[], Faults],
        chance: random.Random,
        tell: Callable[[pb.ImageReport], None],
        accident: Callable[[str], None],
    ) -> None:
        self._faults = faults
        self._chance = chance
        self._tell = tell
        self._accident = accident
        self.has: set[str] = set()
        self._fetches: dict[str, asyncio.Task[bool]] = {}

    def reports(self) -> list[pb.ImageReport]:
        return [pb.ImageReport(sha256=sha256, state=pb.IMAGE_STATE_HAVE) for sha256 in sorted(self.has)] + [
            pb.ImageReport(sha256=sha256, state=pb.IMAGE_STATE_FETCHING) for sha256 in sorted(self._fetches)
        ]

    async def fetched(self, sha256: str) -> bool:
        """Whether it is there in the end."""
        if sha256 not in self._fetches:
            task = self._fetches[sha256] = asyncio.create_task(self._fetch(sha256))
            task.add_done_callback(lambda _: self._fetches.pop(sha256, None))
        return await asyncio.shield(self._fetches[sha256])

    def crash(self) -> None:
        for task in list(self._fetches.values()):
            task.cancel()
        self._fetches.clear()

    async def _fetch(self, sha256: str) -> bool:
        self._tell(pb.ImageReport(sha256=sha256, state=pb.IMAGE_STATE_FETCHING))
        await asyncio.sleep(self._chance.uniform(1.0, 120.0))
        if self._chance.random() < self._faults().image_fails:
            self._accident("image_fails")
            self._tell(pb.ImageReport(sha256=sha256, state=pb.IMAGE_STATE_FAILED, error_code=CODE, detail="404"))
            return False
        self.has.add(sha256)
        self._tell(pb.ImageReport(sha256=sha256, state=pb.IMAGE_STATE_HAVE, bytes=1 << 30))
        return True
