"""Giving memory back that machines took while they were made and destroyed."""

import ctypes
from collections.abc import Callable


def _trim() -> Callable[[], None]:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # a C library that has no such call
        return lambda: None
    return lambda: trim(0)


give_back = _trim()
"""Return free pages of the heap to the system (malloc_trim(3) of glibc).

What a machine's making takes is freed, and yet the heap grew by some 56 KiB with each: what was freed lay in pieces.
"""
