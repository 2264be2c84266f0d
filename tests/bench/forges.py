"""Using the limiting forge from a benchmark."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec

from tests.bench.fleet import TOKEN, Fleet
from tests.bench.limiting_forge import Counted, Forge
from tests.bench.processes import Processes, answers, free_port, python


class RunningForge:
    def __init__(self, url: str, counted_file: Path) -> None:
        self.url = url
        self._counted_file = counted_file

    def counted(self) -> Counted:
        """What it has counted until now."""
        if not self._counted_file.exists():
            return Counted()
        return msgspec.json.decode(self._counted_file.read_bytes(), type=Counted)


async def runners(url: str, repository: str, token: str = TOKEN) -> list[str]:
    """The names of those that are registered (GitHub REST, list self-hosted runners: at most 100 a page)."""
    names: list[str] = []
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {token}"}) as session:
        for page in itertools.count(1):
            query = {"per_page": "100", "page": str(page)}
            async with session.get(f"/repos/{repository}/actions/runners", params=query) as answer:
                answer.raise_for_status()
                listed = await answer.json()
            names += [one["name"] for one in listed["runners"]]
            if not listed["runners"] or len(names) >= listed["total_count"]:
                break
    return names


@asynccontextmanager
async def limiting_forge(
    folder: Path, fleet: Fleet, registration_seconds: float = 0.0, per_minute: int = 0
) -> AsyncIterator[RunningForge]:
    """A forge with the repositories and tokens of the fleet, in a process of its own. It sends no webhooks."""
    port, counted_file, settings = free_port(), folder / "counted.json", folder / "forge-settings.json"
    tokens = {token: fleet.repositories_of(number) for number, token in enumerate(fleet.tokens())}
    forge = Forge(port, tokens, str(counted_file), registration_seconds, per_minute)
    settings.write_bytes(msgspec.json.encode(forge))
    async with Processes(folder) as processes:
        await processes.start("forge", [*python("tests.bench.limiting_forge"), str(settings)], lambda: answers(port))
        yield RunningForge(f"http://127.0.0.1:{port}", counted_file)
