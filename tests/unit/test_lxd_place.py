"""What LXD needs of its host before any instance can be made."""

from pathlib import Path

import pytest

from providers.contract import HypervisorUnavailable
from providers.lxd.place import check_bridge_filter


def test_a_host_whose_bridges_ask_ip6tables_is_good(tmp_path: Path) -> None:
    switch = tmp_path / "bridge-nf-call-ip6tables"
    switch.write_text("1\n")
    check_bridge_filter(switch)


def test_a_missing_kernel_module_is_named_with_what_loads_it(tmp_path: Path) -> None:
    with pytest.raises(HypervisorUnavailable, match="br_netfilter is not loaded") as raised:
        check_bridge_filter(tmp_path / "bridge-nf-call-ip6tables")
    assert "modprobe br_netfilter" in raised.value.hint
    assert "/etc/modules-load.d/" in raised.value.hint


def test_a_filter_that_is_switched_off_is_named_with_what_switches_it_on(tmp_path: Path) -> None:
    switch = tmp_path / "bridge-nf-call-ip6tables"
    switch.write_text("0\n")
    with pytest.raises(HypervisorUnavailable, match="do not ask ip6tables") as raised:
        check_bridge_filter(switch)
    assert "sysctl net.bridge.bridge-nf-call-ip6tables=1" in raised.value.hint
