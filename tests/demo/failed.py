"""How the demo fails: with a sentence, whatever it was that broke."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import aiohttp
import grpc
import libvirt

from hostler.errors import HostlerError


class DemoFailed(Exception):
    """The demo did not go as it must; the message says what to look at."""


# TimeoutError and every broken connection are OSErrors.
_BREAKS: Final = (
    libvirt.libvirtError,
    grpc.RpcError,
    aiohttp.ClientError,
    subprocess.SubprocessError,
    HostlerError,
    OSError,
)


@contextmanager
def told(while_doing: str) -> Iterator[None]:
    """Raises DemoFailed: something broke in the block."""
    try:
        yield
    except _BREAKS as error:
        reason = str(error).strip() or type(error).__name__
        raise DemoFailed(f"{while_doing}: {reason}") from error
