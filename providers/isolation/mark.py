"""The proof that a packet of a machine has passed our rules."""

from typing import Final

MARK: Final = 0x0800_0000
"""One bit of the packet's mark, the others stay as they are. No machine can set it: marks end at its own link."""
