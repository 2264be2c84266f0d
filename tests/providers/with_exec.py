"""The exec provider for the conformance tests, used as the coordinator uses it, with one executable after the other."""

import asyncio
from abc import abstractmethod
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from providers.contract import InstanceSpec, Machine, MachineState, ProviderError, Report
from providers.exec import CloudInstance, CloudSpec, ExecProvider, ExecSettings, InstanceExists, Tool
from tests.providers.adapter import Adapter
from tests.samples.ec2_account import PROGRAM, Account
from tests.samples.fake_ec2 import FakeEc2, served
from tests.samples.qemu_cloud import EXECUTABLE, WRAPPER, QemuCloud, path_with_stand_in

FILE_CLOUD: Final = Path(__file__).parents[1] / "fixtures" / "providers" / "file-cloud"
POOL: Final = "pool"
_STATES: Final = {"running": MachineState.RUNNING, "stopped": MachineState.STOPPED}


class Cloud:
    """What a coordinator adds: it knows instances by name, does one thing at a time for each, and what it has begun."""

    def __init__(self, provider: ExecProvider, names: dict[str, str], images: Mapping[str, str], flavor: str) -> None:
        self._provider = provider
        self._names = names  # of the instances begun, by id: the coordinator's database
        self._images = images  # what this cloud calls them
        self._flavor = flavor
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
                flavor=self._flavor,
                image=self._images.get(spec.image, spec.image),
                extra_specs={"runner_install_template": WRAPPER},
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


class Executable(Adapter):
    """A world of one executable. Without its file it cannot be driven."""

    offers = frozenset()
    image_error = ProviderError
    flavor = "small"

    def __init__(self, directory: Path, executable: Path) -> None:
        self._file = directory / "executable"
        self._executable = executable
        self._file.symlink_to(executable)
        self._names: dict[str, str] = {}
        self._images: dict[str, str] = {}

    @abstractmethod
    def settings(self, executable: Path) -> ExecSettings: ...

    async def open(self, on_stopped: Callable[[str], None] = lambda _: None) -> Cloud:
        provider = ExecProvider(self.settings(self._file), "controller")
        return Cloud(provider, self._names, self._images, self.flavor)

    async def close(self) -> None: ...

    @asynccontextmanager
    async def down(self) -> AsyncIterator[None]:
        self._file.unlink()
        yield
        self._file.symlink_to(self._executable)

    @asynccontextmanager
    async def failing_halfway(self) -> AsyncIterator[InstanceSpec]:
        async with self.no_space():
            yield self.spec()


class Exec(Executable):
    """What tests have for a cloud."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, FILE_CLOUD)
        self._cloud = directory / "cloud"
        self._cloud.mkdir(parents=True)
        self._config = directory / "config.toml"
        self._config.write_text(f'directory = "{self._cloud}"')

    def settings(self, executable: Path) -> ExecSettings:
        return ExecSettings(name="cloud", executable=str(executable), config_file=str(self._config))

    def traces(self) -> list[str]:
        return sorted(path.name for path in self._cloud.glob("*.json"))

    @asynccontextmanager
    async def no_space(self) -> AsyncIterator[None]:
        (self._cloud / "full").touch()
        yield
        (self._cloud / "full").unlink()


class Qemu(Executable):
    """The provider in bash. Its QEMU, a stand-in, fails when disk and seed are there."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, EXECUTABLE)
        self._patch = pytest.MonkeyPatch()
        self._patch.setenv("PATH", path_with_stand_in())
        self._cloud = QemuCloud(directory)

    def settings(self, executable: Path) -> ExecSettings:
        return self._cloud.settings(executable)

    async def close(self) -> None:
        self._cloud.end_all()
        self._patch.undo()

    def traces(self) -> list[str]:
        return self._cloud.traces()

    @asynccontextmanager
    async def no_space(self) -> AsyncIterator[None]:
        (self._cloud.machines / "full").touch()
        yield
        (self._cloud.machines / "full").unlink()


class Ec2(Executable):
    """The provider for EC2, against moto."""

    flavor = "m5.large"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, PROGRAM)
        self._patch = pytest.MonkeyPatch()
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            self._patch.setenv(key, "test")
        self._patch.setattr("moto.settings.ENABLE_AMI_VALIDATION", True)  # unknown images are refused, as by AWS
        self._fake = FakeEc2()
        self._serving = ExitStack()
        self._account = Account(self._serving.enter_context(served(self._fake)), directory)
        self._images["stays"] = self._account.image

    def settings(self, executable: Path) -> ExecSettings:
        return self._account.settings(executable)

    async def close(self) -> None:
        self._account.reset()
        self._serving.close()
        self._patch.undo()

    def traces(self) -> list[str]:
        return sorted(one["InstanceId"] for one in self._account.alive())

    @asynccontextmanager
    async def no_space(self) -> AsyncIterator[None]:
        self._fake.full = lambda *_: "InsufficientInstanceCapacity"
        yield
        self._fake.full = lambda *_: ""

    @asynccontextmanager
    async def failing_halfway(self) -> AsyncIterator[InstanceSpec]:
        """The machine is made, and it is never said."""
        self._fake.silent = True
        yield self.spec()
        self._fake.silent = False
