"""The `nft` program, given structured data. Why not its library: docs/decisions/isolation.md."""

import subprocess
from collections.abc import Callable
from typing import ClassVar, Final

import msgspec

from providers.contract import ProviderError
from providers.isolation.rules import Json

_SECONDS: Final = 20


class IsolationFailed(ProviderError):
    """The rules that hold the machines cannot be put in place, so no machine may start."""

    code: ClassVar[str] = "isolation_failed"


def apply(document: Json, started: Callable[[int], None]) -> None:
    """Carry a document out, as a whole or not at all. Blocks.

    `started` is told nft's process id before anything is changed: it is the sender of what the kernel then tells of.

    Raises:
        IsolationFailed: nothing was changed.
    """
    try:
        with subprocess.Popen(
            ["nft", "-j", "-f", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            started(process.pid)
            said, _ = _converse(process, msgspec.json.encode(document))
    except FileNotFoundError:
        raise IsolationFailed("the program nft is not there", hint="apt install nftables") from None
    except OSError as error:  # no memory, process or descriptor is left
        raise IsolationFailed(f"nft cannot be run: {error.strerror}", hint="see what the host is short of") from error
    if process.returncode != 0:
        text = " ".join(said.decode(errors="replace").split())
        raise IsolationFailed(f"nft refused the rules: {text[:500]}", hint="the agent needs root, or CAP_NET_ADMIN")


def _converse(process: "subprocess.Popen[bytes]", content: bytes) -> tuple[bytes, bytes]:
    try:
        return process.communicate(content, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise IsolationFailed(f"nft did not end within {_SECONDS} s") from None
