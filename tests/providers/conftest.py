"""The worlds in which the conformance tests run. Real hypervisors are started here, and left as they were found."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.providers.adapter import Adapter, Offers
from tests.providers.with_exec import Ec2, Exec, Qemu
from tests.providers.with_libvirt import Libvirt
from tests.providers.with_lxd import Lxd, LxdMachines
from tests.providers.with_simulated import Simulated
from tests.real import conftest

tmp_path = conftest.tmp_path  # QEMU's own user must get through

ADAPTERS: Final[dict[str, type[Adapter]]] = {
    "simulated": Simulated,
    "exec": Exec,
    "exec-qemu": Qemu,
    "exec-ec2": Ec2,
    "libvirt": Libvirt,
    "lxd-container": Lxd,
    "lxd": LxdMachines,
}
_REAL: Final = {"libvirt", "lxd-container", "lxd"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "world" not in metafunc.fixturenames:
        return
    needed: set[Offers] = {offer for mark in metafunc.definition.iter_markers("needs") for offer in mark.args}
    left_out: set[str] = set() if metafunc.config.getoption("--lxd-machines") else {"lxd"}
    names = [name for name, kind in ADAPTERS.items() if needed <= kind.offers and name not in left_out]
    params = [pytest.param(name, marks=pytest.mark.real if name in _REAL else ()) for name in names]
    metafunc.parametrize("world", params, indirect=True)


@pytest.fixture
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Adapter]:
    directory = tmp_path / "world"
    if request.param == "lxd-container":
        one: Adapter = Lxd(directory, request.getfixturevalue("lxd_daemon"))
    elif request.param == "lxd":
        one = LxdMachines(directory, request.getfixturevalue("lxd_daemon"))
    else:
        directory.mkdir()
        one = ADAPTERS[request.param](directory)  # type: ignore[call-arg]
    yield one
    await one.close()
