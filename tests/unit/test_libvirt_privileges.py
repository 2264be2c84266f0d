"""What libvirt tells of the power that machines have."""

import pytest

from providers.libvirt.privileges import weaknesses

ROOT = "machines run as root: a guest that breaks out of QEMU has the host"
APART = "neither AppArmor nor SELinux keeps one machine's QEMU from another's files"
SANDBOX = "seccomp_sandbox is off: QEMU may use every system call"


def capabilities(*models: str, user: str = "+64055:+108") -> str:
    labels = f"<baselabel type='kvm'>{user}</baselabel><baselabel type='qemu'>{user}</baselabel>"
    dac = f"<secmodel><model>dac</model><doi>0</doi>{labels}</secmodel>" if user else ""
    others = "".join(f"<secmodel><model>{model}</model><doi>0</doi></secmodel>" for model in models)
    return f"<capabilities><host>{others}{dac}</host></capabilities>"


@pytest.mark.parametrize(
    ("told", "configuration", "weak"),
    [
        (capabilities("apparmor"), "", []),
        (capabilities("selinux"), "#seccomp_sandbox = 0\nseccomp_sandbox = 1\n", []),
        (capabilities("none"), "", [APART]),
        (capabilities("none", user="+0:+0"), 'user = "root"', [ROOT, APART]),
        (capabilities("apparmor", user=""), "", ["libvirt does not say as which user machines run"]),
        (capabilities("apparmor"), "  seccomp_sandbox=0\n", [SANDBOX]),
    ],
)
def test_each_weakness_is_named(told: str, configuration: str, weak: list[str]) -> None:
    assert weaknesses(told, configuration) == weak
