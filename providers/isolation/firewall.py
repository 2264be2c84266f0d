"""Which machines of a network are admitted, and the rules in the kernel that say so."""

import threading
from collections.abc import Callable, Mapping
from typing import Final

from providers.isolation import bridge, nft, rules
from providers.isolation.gate import Gate, tc
from providers.isolation.rules import Guest, Json, Network

Apply = Callable[[Json, Callable[[int], None]], None]
Remember = Callable[[Mapping[str, Guest]], None]

_REMEMBERED: Final = 64  # process ids of ours: what the kernel tells of a change comes within milliseconds


class Firewall:
    """Blocks; safe to call from several threads. Every change renders all of the rules anew.

    Changes that wait for one another are carried out together: ten machines at once cost two or three runs of nft.
    """

    def __init__(
        self,
        network: Network,
        apply: Apply = nft.apply,
        *,
        gate: Gate | None = None,
        remember: Remember = lambda _guests: None,
    ) -> None:
        """`remember` is told who is admitted before the rules say so, and who is not any more before they do not."""
        self.network = network
        self._apply = apply
        self._gate = gate or Gate(network.bridge, tc)
        self._remember = remember
        self._guests: dict[str, Guest] = {}
        self._owed: set[str] = set()  # admitted no longer, but their rules may be in force still
        self._wanted = 0  # counts changes of the guests
        self._in_force = 0
        self._state = threading.Lock()
        self._applying = threading.Lock()
        self._ours: list[int] = []

    def hold(self, guests: Mapping[str, Guest]) -> None:
        """Admit these, by instance id, and nobody else.

        Raises:
            IsolationFailed: the rules are as they were.
        """
        with self._state:
            self._guests = dict(guests)
        self.restore()

    def admit(self, instance_id: str, guest: Guest) -> None:
        """When this returns the rules are in force, and its machine may start.

        Raises:
            IsolationFailed: it is not admitted.
        """
        with self._state:
            self._guests[instance_id] = guest
        try:
            self.restore()
        except nft.IsolationFailed:
            with self._state:
                self._guests.pop(instance_id, None)
            raise

    def forget(self, instance_id: str) -> None:
        """Admit it no longer. Nobody knows it: fine.

        Raises:
            IsolationFailed: its rules may still be there; the next change takes them away, or the next try of this.
        """
        with self._state:
            if self._guests.pop(instance_id, None) is not None:
                self._owed.add(instance_id)
            owed = instance_id in self._owed
        if owed:
            self.restore()

    def restore(self) -> None:
        """Put the rules in place, whatever is there.

        Raises:
            IsolationFailed: what is in place is what was there.
        """
        with self._state:
            self._wanted += 1
            mine = self._wanted
        with self._applying:
            if self._in_force >= mine:
                return  # somebody who came later has carried it out as well
            bridge.check(self.network)
            with self._state:
                version, guests, settled = self._wanted, dict(self._guests), set(self._owed)
            self._remember(guests)
            self._apply(rules.document(self.network, guests.values()), self._note)
            # After the rules: they mark what may come through it.
            self._gate.close()
            self._in_force = version
            with self._state:
                self._owed -= settled

    def close_gate(self) -> None:
        """At a bridge that has been made since the rules were put in place.

        Raises:
            IsolationFailed: it may be open.
        """
        with self._applying:
            if self._in_force:
                self._gate.close()

    def remove(self) -> None:
        """Take all rules of the network away: only for one whose bridge is gone.

        Raises:
            IsolationFailed: they are still there.
        """
        with self._applying:
            self._apply(rules.removal(self.network), self._note)

    def is_ours(self, sender: int) -> bool:
        """Whether a change of the kernel's rules was this agent's own."""
        return sender in self._ours

    def _note(self, process_id: int) -> None:
        self._ours = [*self._ours[1 - _REMEMBERED :], process_id]
