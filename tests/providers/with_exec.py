"""The exec provider for the conformance tests, used as the coordinator uses it, with a directory for a cloud."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from providers.contract import InstanceSpec, Machine, MachineState, ProviderError, Report
from providers.exec import CloudInstance, CloudSpec, ExecProvider, ExecSettings, InstanceExists, Tool
from tests.providers.adapter import Adapter

FILE_CLOUD: Final = Path(__file__).parents[1] / "fixtures" / "providers" / "file-cloud"
POOL: Final = "pool"
_STATES: Final = {"running": MachineState.RUNNING, "stopped": MachineState.STOPPED}


class Cloud:
    """What a coordinator adds: it knows instances by name, does one thing at a time for each, and what it has begun."""

    def __init__(self, provider: ExecProvider, names: dict[str, str]) -> None:
        self._provider = provider
        self._names = names  # of the instances begun, by id: the coordinator's database
        self._order: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def create(self, spec: InstanceSpec, report: Report) -> Machine:
        async with self._order[spec.instance_id]:
            begun = self._names.get(spec.instance_id) == spec.name
            wanted = CloudSpec(
                name=spec.name,
                tools=(Tool(os="linux", architecture="x64"),),
                repo_url="https://forge.test/o/r",
                callback_url=spec.bootstrap.callback_url,
                metadata_url=spec.bootstrap.metadata_url,
                instance_token=spec.bootstrap.token,
                arch=spec.arch,
                flavor="small",
                image=spec.image,
                pool_id=POOL,
            )
            try:
                made = await self._provider.create(wanted)
            except InstanceExists:
                if not begun:
                    raise
                made = await self._provider.get(spec.name, POOL, None)
            self._names[spec.instance_id] = spec.name
            return self._machine(made)

    async def delete(self, instance_id: str) -> None:
        async with self._order[instance_id]:
            await self._provider.delete(self._names.get(instance_id, instance_id), POOL, None)

    async def inventory(self) -> list[Machine]:
        return [self._machine(made) for made in await self._provider.list(POOL, None)]

    async def console(self, instance_id: str, limit_bytes: int) -> tuple[bytes, bool]:
        raise NotImplementedError

    async def close(self) -> None: ...

    def _machine(self, made: CloudInstance) -> Machine:
        instance_id = next((one for one, name in self._names.items() if name == made.name), made.name)
        return Machine(instance_id, 0, made.name, _STATES[made.status])


class Exec(Adapter):
    offers = frozenset()
    image_error = ProviderError

    def __init__(self, directory: Path) -> None:
        self._cloud = directory / "cloud"
        self._cloud.mkdir(parents=True)
        self._executable = directory / "executable"
        self._executable.symlink_to(FILE_CLOUD)
        config = directory / "config.toml"
        config.write_text(f'directory = "{self._cloud}"')
        self._settings = ExecSettings(name="cloud", executable=str(self._executable), config_file=str(config))
        self._names: dict[str, str] = {}

    async def open(self, on_stopped: Callable[[str], None] = lambda _: None) -> Cloud:
        return Cloud(ExecProvider(self._settings, "controller"), self._names)

    async def close(self) -> None: ...

    def traces(self) -> list[str]:
        return sorted(path.name for path in self._cloud.glob("*.json"))

    @asynccontextmanager
    async def no_space(self) -> AsyncIterator[None]:
        (self._cloud / "full").touch()
        yield
        (self._cloud / "full").unlink()

    @asynccontextmanager
    async def down(self) -> AsyncIterator[None]:
        self._executable.unlink()
        yield
        self._executable.symlink_to(FILE_CLOUD)

    @asynccontextmanager
    async def failing_halfway(self) -> AsyncIterator[InstanceSpec]:
        async with self.no_space():
            yield self.spec()
