"""What the conformance tests need of a provider besides itself: guests, ways to break it, and a look from outside."""

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import Enum, auto
from typing import Protocol

from providers.contract import (
    Arch,
    Bootstrap,
    ImageUnavailable,
    InstanceSpec,
    Machine,
    Phase,
    ProviderError,
    Report,
    Resources,
)


class Offers(Enum):
    """What not every provider does by its contract. A test that needs one runs with those that have it."""

    EVENTS = auto()  # tells of machines that end
    PHASES = auto()  # reports how far a create has come, and keeps generations
    CONSOLE = auto()
    UNDOES = auto()  # a create that is cancelled leaves nothing


class Provider(Protocol):
    """As in the contract; the exec provider is brought into this form as the coordinator uses it."""

    async def create(self, spec: InstanceSpec, report: Report) -> Machine: ...
    async def delete(self, instance_id: str) -> None: ...
    async def inventory(self) -> list[Machine]: ...
    async def console(self, instance_id: str, limit_bytes: int) -> tuple[bytes, bool]: ...
    async def close(self) -> None: ...


class Adapter(ABC):
    """One provider's world, empty at first; what is opened and made in it is gone after `close`."""

    offers: frozenset[Offers]
    console_text = b""  # what a guest of `spec` writes once it runs
    image_error: type[ProviderError] = ImageUnavailable

    @abstractmethod
    async def open(self, on_stopped: Callable[[str], None] = lambda _: None) -> Provider:
        """A new provider object on what there is, as after a restart of its process."""

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def traces(self) -> list[str]:
        """Everything that machines may leave behind, by name, seen without the provider."""

    @abstractmethod
    def no_space(self) -> AbstractAsyncContextManager[None]:
        """Meanwhile there is no room for another machine."""

    @abstractmethod
    def down(self) -> AbstractAsyncContextManager[None]:
        """Meanwhile what the provider drives does not answer; machines live on. It is back at the end."""

    @abstractmethod
    def failing_halfway(self) -> AbstractAsyncContextManager[InstanceSpec]:
        """An instance whose create fails when something of it is already there."""

    async def end(self, instance_id: str) -> None:
        """The machine dies or powers off, whatever the provider does."""
        raise NotImplementedError

    def spec(self, **changes: object) -> InstanceSpec:
        """A new instance of its own id and name, whose machine stays."""
        instance_id = str(uuid.uuid4())
        values: dict[str, object] = {
            "instance_id": instance_id,
            "generation": 7,
            "name": f"test-{instance_id[:8]}",
            "image": "stays",
            "resources": Resources(vcpus=1, memory_mib=64, disk_gib=1),
            "arch": Arch.AMD64,
            "pool_id": "pool",
            "bootstrap": Bootstrap(
                "http://192.0.2.1/metadata", "http://192.0.2.1/callbacks", f"token-of-{instance_id}"
            ),
        }
        return InstanceSpec(**(values | changes))  # type: ignore[arg-type]


class Ends:
    """Waits for a provider's word that machines have ended."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[str] = asyncio.Queue()

    def __call__(self, instance_id: str) -> None:
        self.told.put_nowait(instance_id)

    async def next(self, seconds: float = 60) -> str:
        return await asyncio.wait_for(self.told.get(), seconds)


def ignore(_phase: Phase) -> None: ...
