"""How the demo ends when something breaks: with the first failure, in a sentence; the demo itself is in tests/real."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import libvirt
import pytest

from providers.libvirt.acceleration import Proof
from tests.demo import __main__ as demo
from tests.demo import stop
from tests.demo.failed import DemoFailed
from tests.demo.places import Places
from tests.demo.traces import settings


class Broken:
    """A demo whose parts do nothing, or break as a test says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.breaks: dict[str, Exception] = {}
        for name in ("_build_guest", "_libvirt_answers", "_checked", "clear", "_stop_libvirt"):
            monkeypatch.setattr(demo, name, self._part(name))
        monkeypatch.setattr(demo, "CACHE", folder)
        monkeypatch.setattr(demo, "new_places", lambda: Places(folder / "places"))
        monkeypatch.setattr(demo, "prove", lambda _: Proof("boot", "qemu", works=False, detail=""))
        monkeypatch.setattr(demo, "Run", lambda *_: self._run)
        monkeypatch.setattr(sys, "argv", ["demo"])
        (folder / "places").mkdir()

    def _part(self, name: str) -> Any:
        def part(*_: object) -> None:
            if name in self.breaks:
                raise self.breaks[name]

        return part

    async def _run(self, _: object) -> None:
        self._part("run")()


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Broken:
    return Broken(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("part", "error", "said"),
    [
        ("_checked", FileNotFoundError(2, "No such file", "libvirt-up"), "setting up: [Errno 2] No such file"),
        ("run", DemoFailed("job 1 ended with 'failure'"), "job 1 ended with 'failure'"),
        ("run", libvirt.libvirtError("the domain is gone"), "running the jobs: the domain is gone"),
        ("run", subprocess.CalledProcessError(1, "nft"), "running the jobs: Command 'nft' returned"),
        ("clear", DemoFailed("removing its network: in use"), "it went well, but not the cleaning up: removing its"),
    ],
)
def test_what_breaks_is_said_in_a_sentence(
    broken: Broken, capsys: pytest.CaptureFixture[str], part: str, error: Exception, said: str
) -> None:
    broken.breaks = {part: error}
    with pytest.raises(SystemExit) as ended:
        demo.main()
    assert ended.value.code == 1
    assert f"the demo failed: {said}" in capsys.readouterr().out
    assert (broken.folder / "places").exists()  # the logs are there to be looked at


def test_a_cleaning_up_that_breaks_as_well_does_not_hide_the_first_failure(
    broken: Broken, capsys: pytest.CaptureFixture[str]
) -> None:
    broken.breaks = {"run": DemoFailed("the first failure"), "clear": DemoFailed("the second")}
    with pytest.raises(SystemExit):
        demo.main()
    output, errors = capsys.readouterr()
    assert "the demo failed: the first failure" in output
    assert "second" not in output
    assert "nor did the cleaning up go well: the second; to do it again: .venv/bin/python -m tests.demo.stop" in errors


def test_all_well_leaves_nothing(broken: Broken, capsys: pytest.CaptureFixture[str]) -> None:
    demo.main()
    assert not (broken.folder / "places").exists()
    assert "seven steps" in capsys.readouterr().out


def test_a_libvirt_that_hangs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("virsh", 20)

    monkeypatch.setattr(subprocess, "run", hangs)
    with pytest.raises(DemoFailed, match="gives no answer for 20 s: restart libvirtd"):
        demo._libvirt_answers()


@pytest.fixture
def libvirt_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_: str) -> None:
        raise libvirt.libvirtError("no socket")

    monkeypatch.setattr(libvirt, "open", refuses)


@pytest.mark.usefixtures("libvirt_refuses")
def test_a_network_that_cannot_be_removed_is_said(tmp_path: Path) -> None:
    with pytest.raises(DemoFailed, match="removing its network: no socket"):
        stop.clear(Places(tmp_path), settings("tcg"))


@pytest.mark.usefixtures("libvirt_refuses")
def test_stopping_says_what_resists_and_keeps_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hostler-demo-1"
    folder.mkdir()
    monkeypatch.setattr(sys, "argv", ["stop", str(folder)])
    with pytest.raises(SystemExit) as ended:
        stop.main()
    assert ended.value.code == 1
    assert f"the demo in {folder} could not be ended: removing its network: no socket" in capsys.readouterr().err
    assert folder.exists()
