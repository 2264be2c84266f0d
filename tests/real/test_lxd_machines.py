"""The conformance tests of providers with LXD's virtual machines, on the build server: this machine may have no KVM.

Some minutes under emulation, so they run where `--lxd-machines` asks for them.
"""

import asyncio
import re
import tempfile
from pathlib import Path

import pytest

from tests.real.server_image import server_image
from tests.real.server_qemu import newest_qemu
from tests.real.server_suite import SUITE_SECONDS, pack_suite, run_suite
from tests.real.server_vm import BuildServer

pytestmark = [pytest.mark.real, pytest.mark.timeout(SUITE_SECONDS + 1200)]


async def test_virtual_machines_of_lxd_do_what_every_provider_does() -> None:
    with tempfile.TemporaryDirectory(prefix="hostler-server-", dir="/var/tmp") as scratch:
        folder = Path(scratch)
        qemu, image = await asyncio.to_thread(lambda: (newest_qemu(), server_image()))
        server = BuildServer(folder, qemu, image, await asyncio.to_thread(pack_suite, folder))
        try:
            await server.start()
            said = await run_suite(server)
        finally:
            print(await server.last_words("dmesg | tail -n 30"))
            await server.kill()
    print(said)
    assert re.fullmatch(r"\d{2} passed, \d+ deselected in .*", said.splitlines()[-1])
