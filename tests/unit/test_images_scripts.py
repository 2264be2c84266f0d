"""What the image scripts refuse before they do anything."""

import hashlib
import platform
import subprocess
from pathlib import Path

import pytest

IMAGES = Path(__file__).parents[2] / "packaging" / "images"


def refused(script: str, *arguments: str) -> str:
    """The error that the script ends with."""
    done = subprocess.run([IMAGES / script, *arguments], check=False, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.fixture
def tarball(tmp_path: Path) -> Path:
    tarball = tmp_path / "runner.tar.gz"
    tarball.write_bytes(b"anything")
    return tarball


@pytest.mark.parametrize("script", ["build-test-guest", "build-runner-image", "fetch-boot-files"])
def test_every_script_explains_itself(script: str) -> None:
    done = subprocess.run([IMAGES / script, "--help"], check=True, capture_output=True, text=True)

    assert done.stdout.startswith(f"usage: {script} ")


@pytest.mark.parametrize("script", ["build-test-guest", "build-runner-image"])
def test_an_image_needs_a_place(script: str, tmp_path: Path) -> None:
    assert "where shall the image go?" in refused(script)
    assert "does not exist" in refused(script, str(tmp_path / "missing" / "image.qcow2"))
    assert "unknown option --fast" in refused(script, "--fast", str(tmp_path / "image.qcow2"))


def test_a_test_guest_needs_a_readable_runner(tmp_path: Path) -> None:
    error = refused("build-test-guest", "--runner", str(tmp_path / "missing"), str(tmp_path / "image.qcow2"))

    assert f"the runner {tmp_path}/missing cannot be read" in error


def test_a_runner_tarball_without_a_checksum_is_refused(tarball: Path, tmp_path: Path) -> None:
    error = refused("build-runner-image", "--runner-tarball", str(tarball), str(tmp_path / "image.qcow2"))

    assert "--runner-tarball needs --sha256" in error


def test_a_runner_tarball_with_another_checksum_is_refused(tarball: Path, tmp_path: Path) -> None:
    promised = hashlib.sha256(b"something else").hexdigest()

    error = refused(
        "build-runner-image", "--runner-tarball", str(tarball), "--sha256", promised, str(tmp_path / "image.qcow2")
    )

    assert hashlib.sha256(b"anything").hexdigest() in error
    assert promised in error
    assert list(tmp_path.iterdir()) == [tarball]


@pytest.mark.parametrize("script", ["build-test-guest", "build-runner-image"])
def test_an_architecture_nobody_has_is_refused(script: str, tmp_path: Path) -> None:
    assert "amd64 or arm64" in refused(script, "--arch", "riscv64", str(tmp_path / "image.qcow2"))
    assert "amd64 or arm64" in refused("fetch-boot-files", "riscv64", str(tmp_path / "files"))


def test_a_guest_of_another_architecture_needs_that_architectures_files(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    error = refused(
        "build-test-guest", "--arch", "arm64", "--boot-files", str(tmp_path / "empty"), str(tmp_path / "image")
    )

    assert (
        f"there is no {tmp_path}/empty/bin/busybox; give --boot-files what packaging/images/fetch-boot-files" in error
    )


def test_a_runner_image_for_programs_that_cannot_be_run_here_is_refused_at_once(tmp_path: Path) -> None:
    arch, cpu = ("amd64", "x86_64") if platform.machine() == "aarch64" else ("arm64", "aarch64")
    error = refused(
        "build-runner-image", "--arch", arch, "--runner-tarball", str(tmp_path / "none"), str(tmp_path / "image")
    )

    if Path(f"/proc/sys/fs/binfmt_misc/qemu-{cpu}").exists():
        assert "none cannot be read" in error
    else:
        assert f"cannot run programs of {arch}" in error
        assert "apt-get install qemu-user-static binfmt-support arch-test" in error


def test_what_is_there_already_is_not_taken_for_another_architectures_files(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    assert f"{files} is there, and is not what an earlier run has made for arm64" in refused(
        "fetch-boot-files", "arm64", str(files)
    )
    (files / "architecture").write_text("arm64\n")
    assert "made for amd64" in refused("fetch-boot-files", "amd64", str(files))
    again = subprocess.run([IMAGES / "fetch-boot-files", "arm64", files], check=True, capture_output=True, text=True)
    assert again.stdout == f"{files}\n"


def test_the_guests_init_is_a_busybox_script() -> None:
    init = IMAGES / "test-guest" / "init"

    assert init.read_text().startswith("#!/bin/busybox sh\n")
    subprocess.run(["sh", "-n", init], check=True)
