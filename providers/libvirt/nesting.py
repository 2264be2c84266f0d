"""Whether machines under KVM can run virtual machines of their own: the host's kernel decides, not the domain's XML.

`host-passthrough` shows a guest what KVM offers: vmx (Intel) or svm (AMD) only where the module's parameter `nested` is
on (kernel documentation, "Running nested guests with KVM"). Under TCG, `maximum` has svm always.
"""

import platform
from pathlib import Path
from typing import Final

import structlog

from providers.libvirt.domain import Acceleration

_MODULES: Final = Path("/sys/module")
_FLAGS: Final = {"kvm_intel": "vmx", "kvm_amd": "svm"}

_log = structlog.get_logger(__name__)


def tell(acceleration: Acceleration) -> None:
    """Log when nesting is off. Blocks."""
    missing = missing_flag(acceleration, platform.machine())
    if missing is not None:
        module, flag = missing
        _log.warning(
            "no_nested_virtualization",
            what=f"guests do not see {flag}, so jobs can run no virtual machines by KVM",
            hint=f"echo 'options {module} nested=1' >/etc/modprobe.d/kvm-nested.conf, and load {module} anew",
        )


def missing_flag(acceleration: Acceleration, machine: str, modules: Path = _MODULES) -> tuple[str, str] | None:
    """The kernel module that keeps nesting from guests, and the processor's flag that they miss; None: they have it.

    Args:
        machine: as `uname -m` says it; on others than x86-64 nesting is not asked for.
    """
    if acceleration is not Acceleration.KVM or machine != "x86_64":
        return None
    for module, flag in _FLAGS.items():
        try:
            nested = (modules / module / "parameters" / "nested").read_text().strip()
        except OSError:
            continue  # another maker's, or built without it
        return None if nested in {"1", "Y", "y"} else (module, flag)
    return None
