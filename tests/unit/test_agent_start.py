"""The console script of the agent: what a host at rest does not hold in memory."""

import subprocess
import sys

_LOADED = """\
import sys
from agent import start
sys.argv = ["hostler-agent", "--version"]
try:
    start.main()
except SystemExit:
    pass
import agent.with_libvirt, providers.libvirt.provider
print(*sorted(name for name, module in sys.modules.items() if module is not None))
import providers.images.request, ssl
print(issubclass(providers.images.request.HTTPSConnection, object), bool(ssl.OPENSSL_VERSION))
"""


def test_an_agent_does_not_load_what_only_rare_things_need_and_can_load_it_later() -> None:
    done = subprocess.run([sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True)
    _, loaded, later = done.stdout.splitlines()
    assert "libvirt" in loaded.split()
    unneeded = {"cryptography", "email", "http.client", "importlib.metadata", "pycdlib", "pylxd", "rich", "ssl"}
    assert unneeded & set(loaded.split()) == set()
    assert later == "True True"
