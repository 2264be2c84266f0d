"""What a machine might reach and must not: listeners here, in private and public networks; packet counts."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.real.conftest import SETTINGS

METADATA: Final = "169.254.169.254"
PRIVATE: Final = "10.99.0.2"
PUBLIC: Final = "198.41.0.4"  # a root server's; routed to a network namespace while the tests run
PORT: Final = 8099
_NAMESPACE: Final = "hostler-beyond"
_LINK: Final = "hostler-beyond"
_COUNTS: Final = "hostler-test-counts"

SERVER: Final = f"""
import http.server, socket, socketserver, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(("%s %d" % self.client_address[:2]).removeprefix("::ffff:").encode())
    def log_message(self, *_): pass
socketserver.ThreadingTCPServer.allow_reuse_address = True
if ":" in sys.argv[1]:
    socketserver.ThreadingTCPServer.address_family = socket.AF_INET6
server = socketserver.ThreadingTCPServer((sys.argv[1], {PORT}), Answer)
print("listens", flush=True)
server.serve_forever()
"""


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def listeners(gateway: str = str(SETTINGS.gateway)) -> Iterator[None]:
    """At PORT of METADATA, PRIVATE and PUBLIC, and of the host's bridge: each says which address and port asked."""
    _beyond()
    inside = ("ip", "netns", "exec", _NAMESPACE)
    serving: list[subprocess.Popen[str]] = []
    try:
        run("ip", "address", "add", f"{METADATA}/32", "dev", "lo")
        for prefix, address in (((), METADATA), ((), gateway), (inside, PRIVATE), (inside, PUBLIC)):
            command = [*prefix, sys.executable, "-c", SERVER, address]
            one = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            serving.append(one)
            assert one.stdout is not None
            assert one.stdout.readline() == "listens\n"
        yield
    finally:
        for one in serving:
            one.kill()
            one.communicate()
        subprocess.run(["ip", "address", "del", f"{METADATA}/32", "dev", "lo"], check=False)
        run("ip", "link", "del", _LINK)
        run("ip", "netns", "del", _NAMESPACE)


def _beyond() -> None:
    """Another machine, as far as this one's routes tell."""
    run("ip", "netns", "add", _NAMESPACE)
    run("ip", "link", "add", _LINK, "type", "veth", "peer", "name", "eth0", "netns", _NAMESPACE)
    run("ip", "address", "add", "10.99.0.1/24", "dev", _LINK)
    run("ip", "link", "set", _LINK, "up")
    run("ip", "route", "add", f"{PUBLIC}/32", "via", PRIVATE)
    for command in (
        f"address add {PRIVATE}/24 dev eth0",
        f"address add {PUBLIC}/32 dev eth0",
        "link set eth0 up",
        "route add default via 10.99.0.1",
    ):
        run("ip", "-netns", _NAMESPACE, *command.split())


class Counts:
    """How many packets the host's IP layer has seen from the machines, by sender; ours decides after this."""

    def __init__(self, **senders: str) -> None:
        """Names to what nftables matches, as `ip saddr 10.0.0.1`."""
        rules = "\n".join(
            f'iifname "{SETTINGS.bridge}" {match} counter comment "{name}"' for name, match in senders.items()
        )
        chain = f"type filter hook prerouting priority raw - 10; policy accept;\n{rules}\n"
        document = f"table inet {_COUNTS} {{\nchain counts {{\n{chain}}}\n}}\n"
        subprocess.run(["nft", "-f", "-"], input=document, text=True, check=True)

    def seen(self, name: str) -> int:
        (line,) = [line for line in run("nft", "list", "table", "inet", _COUNTS).splitlines() if f'"{name}"' in line]
        return int(line.split("packets ")[1].split()[0])

    def close(self) -> None:
        run("nft", "delete", "table", "inet", _COUNTS)
