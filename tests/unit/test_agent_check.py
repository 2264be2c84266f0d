"""What an agent promises of its host, and what `--check` touches."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agent import daemon, host
from agent.config import AgentConfig
from agent.with_libvirt import LibvirtConfig
from agent.with_simulated import SimulatedConfig
from hostler.errors import ConfigError
from providers.libvirt import LibvirtSettings
from providers.pci import DeviceKind
from providers.simulated import SimulatedProvider, SimulatedSettings

GIB = 1024**3


class Opened(SimulatedProvider):
    def __init__(self, directory: Path) -> None:
        super().__init__(SimulatedSettings(), directory=directory)
        self.times = 0

    async def open(self, on_stopped: Callable[[str], None]) -> None:
        self.times += 1


def _config(directory: Path) -> AgentConfig:
    return SimulatedConfig(simulated=SimulatedSettings(), data_dir=str(directory))


async def test_a_check_leaves_the_machines_of_a_live_agent_to_it(tmp_path: Path) -> None:
    config, provider = _config(tmp_path), Opened(tmp_path / "instances")
    with daemon._sole_owner(tmp_path):
        assert not await daemon.check(config, provider)
        assert provider.times == 0
        with pytest.raises(daemon.DataDirUnusable, match="in use by another agent"), daemon._sole_owner(tmp_path):
            pytest.fail("two agents have it")
    assert await daemon.check(config, provider)
    assert provider.times == 1


async def test_a_check_tells_of_devices_that_machines_cannot_have(tmp_path: Path) -> None:
    gone = DeviceKind("gpu", ("ffff:00:00.0",))
    config = LibvirtConfig(libvirt=LibvirtSettings(), device=(gone,), data_dir=str(tmp_path))
    with pytest.raises(ConfigError, match=r"key 'device': device 'gpu': ffff:00:00\.0 cannot be given to machines"):
        await daemon.check(config, Opened(tmp_path / "instances"))
    config.check_files()  # an agent starts without it


async def test_a_check_of_an_agent_that_never_ran_makes_nothing(tmp_path: Path) -> None:
    provider = Opened(tmp_path / "data/instances")
    assert await daemon.check(_config(tmp_path / "data"), provider)
    assert provider.times == 1
    assert not (tmp_path / "data").exists()


def test_only_machines_count_as_room_for_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's own images fill the disk for good; what machines fill is free again when they go, and what images of
    the catalogue fill is within their quota."""
    for name in ("instances/one/disk.qcow2", "images/runner.qcow2", "catalogue/fetched.base"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    sizes = {"disk.qcow2": 3 * GIB, "runner.qcow2": 5 * GIB, "fetched.base": 7 * GIB}
    monkeypatch.setattr(host, "_used_bytes", lambda path: sizes[path.name])
    monkeypatch.setattr(host, "_free_bytes", lambda _: 100 * GIB)
    agent = daemon.Agent(_config(tmp_path), Opened(tmp_path / "instances"))
    assert agent._capacity().disk_gib == 110 - 10 - 11  # what is kept for the host, and for images


def test_a_folder_that_is_not_there_yet_has_the_room_of_its_file_system(tmp_path: Path) -> None:
    assert host.total(tmp_path / "data/instances").disk_gib == host.total(tmp_path).disk_gib
