"""The provider's order of things, with a libvirt that is a set of domains. The real one is in tests/real."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from providers.contract import Arch, HypervisorUnavailable, MachineState, Phase
from providers.isolation import Firewall, Watch
from providers.libvirt import LibvirtProvider, LibvirtSettings, domains, privileges, provider
from providers.libvirt.domain import Acceleration
from providers.libvirt.machines import Machines
from providers.libvirt.store import Store
from tests.unit.test_libvirt_store import spec


class _Unwatched(Watch):
    """The kernel tells of its rules to root only."""

    def open(self) -> None: ...


class Domains:
    """libvirt as the provider knows it: what runs, and a connection that tells of ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running: set[str] = set()
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._ended: Callable[[str], None] = lambda _: None
        monkeypatch.setattr(domains, "is_active", lambda _conn, instance_id: instance_id in self.running)
        monkeypatch.setattr(domains, "tagged", lambda _conn, _owner: {})
        monkeypatch.setattr(privileges, "tell", lambda _conn: None)
        monkeypatch.setattr(provider, "ensure_network", lambda _conn, _settings: None)
        monkeypatch.setattr(provider, "choose", lambda _asked, _proof: Acceleration.TCG)
        monkeypatch.setattr(provider, "Hypervisor", self._connect)
        monkeypatch.setattr(provider, "Firewall", lambda network: Firewall(network, lambda _document, _started: None))
        monkeypatch.setattr(provider, "Watch", _Unwatched)

    def _connect(
        self, _uri: str, *, ended: Callable[[str], None], lost: Callable[[str], None], back: Callable[[], Any]
    ) -> "Domains":
        self._ended = ended
        return self

    async def open(self) -> None: ...

    async def close(self) -> None:
        self.closed = True

    async def call(self, job: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.to_thread(job, None, *arguments)

    async def thread(self, job: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.to_thread(job, *arguments)

    def power_off(self, instance_id: str) -> None:
        self.running.discard(instance_id)
        self._loop.call_soon_threadsafe(self._ended, instance_id)


async def test_a_provider_that_fails_in_the_last_step_of_opening_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libvirt = Domains(monkeypatch)

    def away(*_: object) -> None:
        raise HypervisorUnavailable("away again")

    monkeypatch.setattr(Machines, "ids", away)
    opened = LibvirtProvider(LibvirtSettings(), [], tmp_path / "instances")
    with pytest.raises(HypervisorUnavailable, match="away again"):
        await opened.open(lambda _: None)
    assert libvirt.closed
    with pytest.raises(HypervisorUnavailable, match="not open"):
        await opened.inventory()


@pytest.mark.parametrize("at", ["while it opens", "before it opens", "afterwards"])
async def test_a_machine_that_powers_off_around_the_start_of_its_agent_is_seen_stopped(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libvirt = Domains(monkeypatch)
    store = Store(tmp_path / "instances")
    store.prepare()
    wanted = spec()
    record = store.reached(store.begin(wanted, LibvirtSettings().addresses), Phase.STARTED)
    libvirt.running.add(record.instance_id)
    opened = LibvirtProvider(LibvirtSettings(), [], store.root)
    told: list[str] = []
    noted = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_stopped(instance_id: str) -> None:
        told.append(instance_id)
        noted.set()

    def usable() -> dict[Arch, tuple[str, ...]]:  # asked for after adoption
        if at == "while it opens":
            libvirt.power_off(record.instance_id)
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()  # the loop has heard of it
        return {}

    monkeypatch.setattr(opened._images, "usable", usable)
    if at == "before it opens":
        libvirt.running.clear()
    await opened.open(on_stopped)
    if at == "afterwards":
        libvirt.power_off(record.instance_id)
    if at != "before it opens":
        await asyncio.wait_for(noted.wait(), 30)
    (machine,) = await opened.inventory()
    assert machine.state is MachineState.STOPPED
    assert Phase.STOPPED in machine.phases
    assert told == ([] if at == "before it opens" else [record.instance_id])
    await opened.close()
