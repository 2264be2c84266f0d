"""What holds a network's machines when its rules are gone: nothing comes past the bridge that no rule has marked.

A filter of the traffic control at the bridge itself, which `nft flush ruleset` leaves alone. The rules of the family
`bridge` mark what they admit; this drops whatever comes without the mark, of any protocol. So a host whose rules
somebody flushed is closed to its machines until they are back, also while no agent runs. Why here:
docs/decisions/isolation.md.
"""

import socket
import subprocess
from collections.abc import Callable
from typing import Final

from providers.isolation.mark import MARK
from providers.isolation.nft import IsolationFailed

Run = Callable[[str], None]

_SECONDS: Final = 20
# Classic BPF, linux/filter.h: load the mark (SKF_AD_OFF + SKF_AD_MARK); where it has the bit go on (TC_ACT_UNSPEC),
# else drop (TC_ACT_SHOT).
_PROGRAM: Final = f"4,32 0 0 4294963220,69 0 1 {MARK},6 0 0 4294967295,6 0 0 2"


def commands(bridge: str) -> str:
    """For `tc -batch`. Repeated they change nothing, and the filter is replaced as a whole."""
    return (
        f"qdisc replace dev {bridge} clsact\n"
        f'filter replace dev {bridge} ingress pref 1 handle 1 protocol all bpf da bytecode "{_PROGRAM}"\n'
    )


class Gate:
    """Of one bridge. It lives and ends with the device, so a bridge that is made anew wants a new one."""

    def __init__(self, bridge: str, run: Run, index: Callable[[str], int] = socket.if_nametoindex) -> None:
        self._bridge = bridge
        self._run = run
        self._index = index
        self._at = 0  # the interface's number, where it has been closed

    def close(self) -> None:
        """Where there is a bridge. Only when the rules in force do mark what they admit. Blocks.

        Raises:
            IsolationFailed: it may be open.
        """
        try:
            index = self._index(self._bridge)
        except OSError:
            return  # no bridge, no machine at it
        if index != self._at:
            self._run(commands(self._bridge))
            self._at = index


def tc(batch: str) -> None:
    """
    Raises:
        IsolationFailed: what tc said.
    """
    try:
        done = subprocess.run(
            ["tc", "-batch", "-"], input=batch, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        raise IsolationFailed("the program tc is not there", hint="apt install iproute2") from None
    except OSError as error:  # no memory, process or descriptor is left
        raise IsolationFailed(f"tc cannot be run: {error.strerror}", hint="see what the host is short of") from error
    except subprocess.TimeoutExpired:
        raise IsolationFailed(f"tc did not end within {_SECONDS} s") from None
    if done.returncode != 0:
        raise IsolationFailed(
            f"tc refused the bridge's filter: {' '.join(done.stderr.split())[:500]}",
            hint="the kernel needs sch_ingress and cls_bpf, the bridge no other ingress qdisc, the agent CAP_NET_ADMIN",
        )
