"""What the image for real jobs holds, read from its file systems without booting it."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.runner_images import RECIPE, STAND_IN

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_MIB: Final = 1 << 20
_BOOT_MIB: Final = 1
_ROOT_MIB: Final = 97
"""Where the partitions begin."""

TOOLS: Final = {
    *("docker.io", "git", "git-lfs", "curl", "wget", "jq", "tar", "zip", "unzip", "sudo", "ca-certificates"),
    *("python3-minimal", "libicu72", "busybox-static", "systemd-sysv", "udev", "iproute2", "openssh-client"),
}
UNWANTED: Final = {
    *("cloud-init", "openssh-server", "ifupdown", "isc-dhcp-client", "unattended-upgrades", "cron", "rsyslog"),
    *("man-db", "build-essential"),
}

ENABLED: Final = ("hostler-runner.path", "docker.socket")
DISABLED: Final = ("docker.service", "containerd.service")
MASKED: Final = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("motd-news.timer", "systemd-timesyncd.service", "systemd-networkd.service", "systemd-boot-update.service"),
    *("systemd-networkd-wait-online.service", "getty@tty1.service", "serial-getty@ttyS0.service"),
)


class Contents(msgspec.Struct, frozen=True):
    """`tree` has what the tests look at; owners and modes are asked of the file system itself."""

    disk: Path
    tree: Path

    def text(self, path: str) -> str:
        return (self.tree / path).read_text()

    def debugfs(self, request: str) -> str:
        where = f"{self.disk}?offset={_ROOT_MIB * _MIB}"
        done = subprocess.run(["debugfs", "-R", request, where], check=True, capture_output=True, text=True)
        assert "not found" not in done.stderr, done.stderr
        return done.stdout

    def owner_and_mode(self, path: str) -> tuple[int, int, int]:
        words = self.debugfs(f'stat "/{path}"').replace(":", " ").split()
        user, group, mode = (words[words.index(name) + 1] for name in ("User", "Group", "Mode"))
        return int(user), int(group), int(mode, 8)

    def state(self, unit: str) -> str:
        command = ["systemctl", f"--root={self.tree}", "is-enabled", unit]
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def contents(unit_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    folder = tmp_path_factory.mktemp("contents")
    disk, tree = folder / "disk", folder / "tree"
    subprocess.run(["qemu-img", "convert", "-O", "raw", unit_image, disk], check=True)
    found = Contents(disk, tree)
    for path in ("etc", "boot", "root", "home", "usr/lib/hostler", "usr/lib/systemd", "var/lib/dpkg"):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        found.debugfs(f'rdump "/{path}" "{(tree / path).parent}"')
    return found


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    for tool in ("debugfs", "systemctl", "mdir", "mcopy", "qemu-img"):
        assert shutil.which(tool), f"{tool} is missing: tools/setup runner-image"


def packages(contents: Contents) -> set[str]:
    entries = contents.text("var/lib/dpkg/status").split("\n\n")
    return {
        line.removeprefix("Package: ")
        for entry in entries
        if "Status: install ok installed" in entry
        for line in entry.splitlines()
        if line.startswith("Package: ")
    }


def test_it_has_what_jobs_need_and_nothing_that_delays_them(contents: Contents) -> None:
    installed = packages(contents)
    assert installed >= TOOLS
    assert not installed & UNWANTED


def test_every_package_is_installed_to_its_end(contents: Contents) -> None:
    states = {line for line in contents.text("var/lib/dpkg/status").splitlines() if line.startswith("Status: ")}
    assert states == {"Status: install ok installed"}


def test_units_are_on_or_off_as_a_machine_for_one_job_needs_them(contents: Contents) -> None:
    states = {unit: contents.state(unit) for unit in (*ENABLED, *DISABLED, *MASKED)}
    assert states == dict.fromkeys(ENABLED, "enabled") | dict.fromkeys(DISABLED, "disabled") | dict.fromkeys(
        MASKED, "masked"
    )
    assert (contents.tree / "etc/systemd/system/default.target").readlink().name == "multi-user.target"


def test_no_timer_is_left_but_the_one_that_tidies_temporary_files(contents: Contents) -> None:
    units = contents.tree / "usr/lib/systemd/system"
    wanted = {link.name for link in (contents.tree / "etc/systemd/system").glob("*.wants/*.timer")}
    wanted |= {link.name for link in units.glob("*.wants/*.timer")}
    assert {unit for unit in wanted if contents.state(unit) != "masked"} <= {"systemd-tmpfiles-clean.timer"}


def test_the_unit_that_reads_the_seed_is_the_recipes(contents: Contents) -> None:
    recipe = RECIPE / "runner-image" / "with-unit"
    files = [path.relative_to(recipe) for path in recipe.rglob("*") if path.is_file()]
    assert len(files) >= 5
    for path in files:
        assert (contents.tree / path).read_text() == (recipe / path).read_text()
    for program in ("init", "start-runner"):
        assert contents.owner_and_mode(f"usr/lib/hostler/{program}") == (0, 0, 0o755)


def test_no_two_machines_of_it_share_a_secret_or_an_identity(contents: Contents) -> None:
    etc = contents.tree / "etc"
    assert (etc / "machine-id").read_bytes() == b""
    assert not list(etc.glob("ssh/ssh_host_*"))
    assert not (contents.tree / "var/lib/dbus/machine-id").exists()
    for line in contents.text("etc/shadow").splitlines():
        name, password = line.split(":")[:2]
        assert password[:1] in {"*", "!"}, f"{name} may log in with a password"
    kept = [path for place in ("root", "home") for path in (contents.tree / place).rglob("*") if path.is_file()]
    assert not [path for path in kept if path.name.startswith(("authorized_keys", "id_", ".credentials", ".runner"))]


def test_it_tells_nothing_of_the_machine_that_built_it(contents: Contents) -> None:
    assert contents.text("etc/hostname") == "localhost\n"
    assert contents.text("etc/resolv.conf") == ""
    assert {line.split()[1] for line in contents.text("etc/hosts").splitlines()} == {"localhost"}


def test_the_runner_is_unpacked_for_its_user(contents: Contents) -> None:
    (entry,) = (line for line in contents.text("etc/passwd").splitlines() if line.startswith("runner:"))
    user, group = map(int, entry.split(":")[2:4])
    assert user >= 1000
    assert contents.text("home/runner/actions-runner/run.sh") == STAND_IN.read_text()
    for path in ("home/runner/actions-runner", "home/runner/actions-runner/run.sh"):
        assert contents.owner_and_mode(path) == (user, group, 0o755)
    groups = {
        line.split(":")[0] for line in contents.text("etc/group").splitlines() if "runner" in line.split(":")[3:][0]
    }
    assert groups == {"docker", "sudo", "adm"}
    assert contents.text("etc/sudoers.d/runner") == "runner ALL=(ALL) NOPASSWD: ALL\n"
    assert contents.owner_and_mode("etc/sudoers.d/runner") == (0, 0, 0o440)


def test_it_boots_by_bios_and_by_uefi_from_the_boot_partition_alone(contents: Contents) -> None:
    where = f"{contents.disk}@@{_BOOT_MIB}M"
    listed = subprocess.run(
        ["mdir", "-b", "-/", "-i", where], check=True, capture_output=True, text=True
    ).stdout.split()
    assert {"::/vmlinuz", "::/initrd", "::/syslinux.cfg", "::/EFI/BOOT/BOOTX64.EFI"} <= set(listed)
    entry = ["mcopy", "-i", where, "::loader/entries/linux.conf", "-"]
    assert "root=LABEL=hostler-root" in subprocess.run(entry, check=True, capture_output=True, text=True).stdout
    assert list((contents.tree / "boot").iterdir()) == []
