"""Whether guests see vmx or svm: what the kernel's modules say."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from providers.libvirt import nesting
from providers.libvirt.domain import Acceleration
from providers.libvirt.nesting import missing_flag


def loaded(folder: Path, module: str, nested: str) -> Path:
    parameters = folder / module / "parameters"
    parameters.mkdir(parents=True)
    (parameters / "nested").write_text(f"{nested}\n")
    return folder


@pytest.mark.parametrize(("module", "flag"), [("kvm_intel", "vmx"), ("kvm_amd", "svm")])
@pytest.mark.parametrize(("nested", "shown"), [("1", True), ("Y", True), ("0", False), ("N", False)])
def test_a_guest_sees_its_flag_where_the_module_nests(
    tmp_path: Path, module: str, flag: str, nested: str, shown: bool
) -> None:
    modules = loaded(tmp_path, module, nested)
    assert missing_flag(Acceleration.KVM, "x86_64", modules) == (None if shown else (module, flag))


def test_nothing_is_missed_where_nothing_is_asked_of_the_module(tmp_path: Path) -> None:
    assert missing_flag(Acceleration.KVM, "x86_64", tmp_path) is None
    modules = loaded(tmp_path, "kvm_intel", "N")
    assert missing_flag(Acceleration.TCG, "x86_64", modules) is None
    assert missing_flag(Acceleration.KVM, "aarch64", modules) is None


def test_an_operator_is_told_once_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nesting, "missing_flag", lambda *_: ("kvm_amd", "svm"))
    with capture_logs() as logs:
        nesting.tell(Acceleration.KVM)
    (said,) = logs
    assert said["event"] == "no_nested_virtualization"
    assert "svm" in said["what"]
    assert "kvm_amd nested=1" in said["hint"]
