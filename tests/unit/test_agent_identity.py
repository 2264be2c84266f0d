"""What a host keeps of its enrolment, and how it finds its coordinator by it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from agent import dial, identity, newkey
from agent.config import CoordinatorSection
from agent.dial import CertificateExpired
from agent.identity import FILE, IdentityUnusable
from coordinator.pki.authority import key_in
from hostler.errors import ConfigError

NOW = datetime(2030, 1, 1, tzinfo=UTC)
MINE = identity.made(
    host="build-1", address="build.example:9995", ca=b"CA", certificate=b"C", key="K", life_seconds=3600, now=NOW
)


def find(directory: Path, address: str = "", host: str = "build-1", now: datetime = NOW) -> dial.Way:
    return dial.find(directory, host, CoordinatorSection(address=address), now)


def test_what_is_kept_is_read_again_and_nobody_else_may(tmp_path: Path) -> None:
    assert identity.load(tmp_path) is None
    identity.save(tmp_path, MINE)
    assert identity.load(tmp_path) == MINE
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    (tmp_path / FILE).chmod(0o640)
    with pytest.raises(IdentityUnusable, match="others than its owner may read it"):
        identity.load(tmp_path)


def test_a_new_one_takes_the_place_of_the_old_one_also_after_a_crash(tmp_path: Path) -> None:
    identity.save(tmp_path, MINE)
    (tmp_path / "identity.new").write_text("half")
    (tmp_path / "identity.new").chmod(0o644)
    newer = msgspec.structs.replace(MINE, key="K2")
    identity.save(tmp_path, newer)
    assert identity.load(tmp_path) == newer
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_damaged_one_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{}")
    (tmp_path / FILE).chmod(0o600)
    with pytest.raises(IdentityUnusable, match="enrol this host anew"):
        identity.load(tmp_path)


def test_without_enrolment_only_loopback_is_dialled(tmp_path: Path) -> None:
    assert find(tmp_path) == dial.Way("127.0.0.1:9998")
    assert find(tmp_path, "[::1]:1") == dial.Way("[::1]:1")
    for address in ("192.0.2.1:9998", "build.example:9998"):
        with pytest.raises(ConfigError, match=r"is another machine, and this host is not enrolled \(run the line"):
            find(tmp_path, address)


def test_with_it_the_address_is_what_was_told_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    identity.save(tmp_path, MINE)
    assert find(tmp_path) == dial.Way("build.example:9995", MINE)
    assert find(tmp_path, "192.0.2.1:1") == dial.Way("192.0.2.1:1", MINE)


def test_another_name_or_an_expired_certificate_is_told_before_anybody_is_dialled(tmp_path: Path) -> None:
    identity.save(tmp_path, MINE)
    with pytest.raises(ConfigError, match="is called 'build-2', and was enrolled as 'build-1'"):
        find(tmp_path, host="build-2")
    assert find(tmp_path, now=NOW + timedelta(seconds=3599)).identity == MINE
    with pytest.raises(CertificateExpired, match="hostler host invite build-1"):
        find(tmp_path, now=NOW + timedelta(hours=1))


async def test_keys_are_made_in_a_process_of_their_own_each_time_anew() -> None:
    first, second = await newkey.make(), await newkey.make()
    assert first.key.startswith("-----BEGIN PRIVATE KEY-----")
    assert key_in(first.csr) != key_in(second.csr)


def test_where_the_coordinator_is_machines_are_kept_from_what_the_agent_calls(tmp_path: Path) -> None:
    assert dial.address(tmp_path, CoordinatorSection()) == dial.BESIDE
    identity.save(tmp_path, MINE)
    assert dial.address(tmp_path, CoordinatorSection()) == MINE.agents_address
    assert dial.address(tmp_path, CoordinatorSection(address="192.0.2.1:9998")) == "192.0.2.1:9998"
