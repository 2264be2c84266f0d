"""An LXD daemon that is the tests' own: in a directory of its own, beside any other that this machine may run."""

import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from pylxd import Client
from pylxd.exceptions import LXDAPIException

from providers.isolation import Firewall
from providers.lxd import LxdSettings, api
from tests.real.boot_sectors import boot_sector

NETWORK: Final = "hostler-lxdt"
SUBNET: Final = "10.221.0.0/24"
POOL_MIB: Final = 256
_START_SECONDS: Final = 60
_BUSYBOX: Final = Path("/bin/busybox")

# The console ends lines as a terminal does.
CONSOLE_TEXT: Final = b"guest says hello\r\n"
STAYS: Final = """\
#!/bin/sh
echo guest says hello
trap 'exit 0' PWR TERM
while :; do sleep 1; done
"""


class Daemon:
    """`start` it, `kill` it as a crash would, and `remove` all that it ever made."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._environment = os.environ | {"LXD_DIR": str(directory / "lxd")}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "lxd" / "unix.socket"

    @property
    def pool(self) -> Path:
        """The storage pool's folder, a small file system of its own."""
        return self.directory / "pool"

    @property
    def settings(self) -> LxdSettings:
        return LxdSettings(socket=str(self.socket), network=NETWORK, subnet=SUBNET)

    def client(self, project: str | None = None) -> Client:
        return Client(str(self.socket), project=project)

    def start(self) -> None:
        """Returns when it answers."""
        (self.directory / "lxd").mkdir(exist_ok=True)
        with (self.directory / "lxd.out").open("ab") as out:
            self._process = subprocess.Popen(
                ["lxd", "--group", "root"], env=self._environment, stdout=out, stderr=out, start_new_session=True
            )
        subprocess.run(
            ["lxd", "waitready", "--timeout", str(_START_SECONDS)], env=self._environment, check=True, timeout=90
        )

    def set_up(self, *, machines: bool = False) -> None:
        """The storage pool that every new LXD needs; virtual machines need one that can do without the page cache."""
        self.pool.mkdir()
        mount = ["-o", "loop", self._file_system()] if machines else ["-t", "tmpfs", "-o", f"size={POOL_MIB}m", "tmpfs"]
        subprocess.run(["mount", *mount, self.pool], check=True)
        for path in self.pool.iterdir():
            path.rmdir()  # lost+found: LXD wants it empty
        pool = {"name": "default", "driver": "dir", "config": {"source": str(self.pool)}}
        self.client().api.storage_pools.post(json=pool)

    def _file_system(self) -> Path:
        image = self.directory / "pool.img"
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", image, f"{POOL_MIB}M"], check=True)
        return image

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def import_container(
        self, alias: str, files: dict[str, str], metadata: str = "", templates: dict[str, str] | None = None
    ) -> str:
        """An image of busybox and these scripts, by path; returns its fingerprint."""
        return self.import_image(alias, container_tarball(alias, files, metadata, templates))

    def import_machine(self, alias: str) -> str:
        """An image of a disk that does nothing: a BIOS boots it, UEFI finds nothing to boot, and the machine stays."""
        about = f"architecture: {os.uname().machine}\ncreation_date: 1\nproperties: {{description: {alias}}}\n"
        with tempfile.TemporaryDirectory() as folder:
            disk = Path(folder, "rootfs.img")
            raw = Path(folder, "raw")
            raw.write_bytes(boot_sector("halts"))
            subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, disk], check=True)
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w:gz") as archive:
                entry = tarfile.TarInfo("metadata.yaml")
                entry.size = len(about)
                archive.addfile(entry, io.BytesIO(about.encode()))
                archive.add(disk, "rootfs.img")
        return self.import_image(alias, packed.getvalue())

    def import_image(self, alias: str, tarball: bytes) -> str:
        client = self.client()
        answer = client.api.images.post(data=tarball).json()
        fingerprint: str = client.operations.wait_for_operation(answer["operation"]).metadata["fingerprint"]
        client.api.images.aliases.post(json={"name": alias, "target": fingerprint})
        return fingerprint

    def lxc(self, *arguments: str) -> None:
        """As an operator would."""
        subprocess.run(["lxc", *arguments], env=self._environment, check=True, stdin=subprocess.DEVNULL)

    def aliases(self) -> set[str]:
        return {name for image in api.images(self.client()) for name in image.names}

    def address(self, name: str) -> IPv4Address:
        found = api.instance(self.client("hostler"), name)
        assert found is not None
        assert found.address is not None
        return found.address

    def status(self, name: str, project: str = "hostler") -> str:
        return str(self.client(project).api.instances[name].state.get().json()["metadata"]["status"])

    def instances(self, project: str = "hostler") -> list[str]:
        try:
            return sorted(instance.name for instance in api.instances(self.client(project)))
        except LXDAPIException:
            return []

    def volumes(self) -> list[str]:
        """What lies in the storage pool besides images."""
        return sorted(path.name for kind in ("containers", "virtual-machines") for path in (self.pool / kind).glob("*"))

    def ports(self) -> list[str]:
        """Interfaces on the bridge."""
        folder = Path("/sys/class/net", NETWORK, "brif")
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def remove(self) -> None:
        """All that it made, then the daemon, then its directory."""
        try:
            if not is_listening(self.socket):
                self.start()
            for path in _listed(self.client().api.projects):
                _empty(self.client(path.rpartition("/")[2]))
            self._delete_networks()
            Firewall(self.settings.isolated).remove()
        finally:
            self._end(signal.SIGTERM)
            for line in Path("/proc/self/mounts").read_text().splitlines()[::-1]:
                if line.split()[1].startswith(f"{self.directory}/"):
                    subprocess.run(["umount", "--lazy", line.split()[1]], check=False)
            shutil.rmtree(self.directory)

    def _delete_networks(self) -> None:
        client = self.client()
        for network in _recursive(client.api.networks):
            if network["managed"]:
                client.api.networks[network["name"]].delete()

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def container_tarball(
    alias: str, files: dict[str, str], metadata: str = "", templates: dict[str, str] | None = None
) -> bytes:
    properties = {"os": "busybox", "description": alias}
    about = f"architecture: {os.uname().machine}\ncreation_date: 1\nproperties: {properties}\n{metadata}"
    content = {"metadata.yaml": about.encode()}
    content |= {f"templates/{name}": text.encode() for name, text in (templates or {}).items()}
    content |= {f"rootfs/{path}": text.encode() for path, text in files.items()}
    return _tarball(content)


@contextmanager
def daemon(*, machines: bool = False) -> Iterator[Daemon]:
    # The path of a socket has 107 bytes at most, so it lies neither in the clone nor in pytest's folders.
    one = Daemon(Path(tempfile.mkdtemp(prefix="hostler-lxd-", dir="/var/tmp")))
    one.directory.chmod(0o711)  # containers' users must get through
    try:
        one.start()
        one.set_up(machines=machines)
        yield one
    finally:
        one.remove()


def import_images(daemon: Daemon, *, machines: bool = False) -> None:
    daemon.import_container("stays", {"sbin/init": STAYS})
    daemon.import_container("has-no-init", {"etc/hostname": "broken\n"})
    if machines:
        daemon.import_machine("stays-machine")


def is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def wait_until_away(path: Path) -> None:
    while is_listening(path):
        time.sleep(0.01)


def _empty(client: Client) -> None:
    for instance in api.instances(client):
        api.stop(client, instance.name)
        api.delete(client, instance.name)
    if client.project == "default":
        for image in api.images(client):
            _wait(client, client.api.images[image.fingerprint].delete())
    else:
        client.api.projects[client.project].delete()


def _wait(client: Client, response: Any) -> None:
    client.operations.wait_for_operation(response.json()["operation"])


def _listed(endpoint: Any) -> list[str]:
    return [path.partition("?")[0] for path in endpoint.get().json()["metadata"]]


def _recursive(endpoint: Any) -> list[dict[str, Any]]:
    return list(endpoint.get(params={"recursion": 1}).json()["metadata"])


def _tarball(content: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for folder in ("bin", "sbin", "dev", "proc", "sys", "tmp", "run", "etc", "root", "var"):
            entry = tarfile.TarInfo(f"rootfs/{folder}")
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        for path, data in ({"rootfs/bin/busybox": _BUSYBOX.read_bytes()} | content).items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o755
            archive.addfile(entry, io.BytesIO(data))
        for applet in subprocess.run([_BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split():
            if applet != "busybox":
                entry = tarfile.TarInfo(f"rootfs/bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(entry)
    return packed.getvalue()
