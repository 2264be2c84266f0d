"""The instances' directories, their records and their consoles."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from providers.contract import Arch, Bootstrap, InstanceSpec, Phase, ProviderError, Resources
from providers.libvirt.console import tail
from providers.libvirt.store import Store

SUBNET = IPv4Network("10.213.0.0/24")


def spec() -> InstanceSpec:
    bootstrap = Bootstrap("http://m", "http://c", "the-secret-token", b"the-secret-user-data")
    resources = Resources(vcpus=1, memory_mib=512, disk_gib=10)
    return InstanceSpec(str(uuid.uuid4()), 2, "hostler-1", "debian", resources, Arch.AMD64, "pool", bootstrap)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "instances")
    made.prepare()
    return made


def test_a_record_survives_and_holds_no_secret(store: Store) -> None:
    wanted = spec()
    record = store.reached(store.begin(wanted, SUBNET), Phase.DISK)
    assert Store(store.root).record(wanted.instance_id) == record
    assert list(record.phases) == [Phase.ACCEPTED, Phase.DISK]
    assert b"the-secret" not in store.folder(wanted.instance_id).state.read_bytes()


def test_instances_begun_at_once_have_different_addresses(store: Store) -> None:
    with ThreadPoolExecutor(8) as threads:
        records = list(threads.map(lambda _: store.begin(spec(), SUBNET), range(24)))
    assert {record.address for record in records} == {f"10.213.0.{last}" for last in range(2, 26)}


def test_the_address_of_a_removed_instance_is_free_again(store: Store) -> None:
    first, _second = store.begin(spec(), SUBNET), store.begin(spec(), SUBNET)
    store.remove(first.instance_id)
    assert store.begin(spec(), SUBNET).address == first.address


def test_a_full_subnet_is_said_to_be_full(store: Store) -> None:
    tiny = IPv4Network("10.0.0.0/30")
    store.begin(spec(), tiny)
    with pytest.raises(ProviderError, match=r"every address of 10\.0\.0\.0/30 is taken"):
        store.begin(spec(), tiny)


@pytest.mark.parametrize("name", ["../../etc", "", ".", "0B8E7A52-7A53-4C0E-9D5B-0F6A1C2D3E4F", "not-a-uuid"])
def test_what_is_no_uuid_never_becomes_a_path(store: Store, name: str) -> None:
    with pytest.raises(ProviderError, match="is not a UUID"):
        store.remove(name)


@pytest.mark.parametrize("content", [b"", b"{", b'{"instance_id": "x"}'])
def test_an_unreadable_record_counts_as_none(store: Store, content: bytes) -> None:
    record = store.begin(spec(), SUBNET)
    store.folder(record.instance_id).state.write_bytes(content)
    assert store.record(record.instance_id) is None
    assert store.ids() == [record.instance_id]
    assert store.records() == []


def test_other_things_in_the_directory_are_no_instances(store: Store) -> None:
    (store.root / "lost+found").mkdir()
    assert store.ids() == []


def test_removing_what_is_not_there_is_fine(store: Store) -> None:
    store.remove(str(uuid.uuid4()))


def test_a_root_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="Not a directory"):
        Store(tmp_path / "file" / "instances").prepare()


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (100, (b"oldest older newest", False)),
        (19, (b"oldest older newest", False)),
        (18, (b"ldest older newest", True)),
        (9, (b"er newest", True)),
        (6, (b"newest", True)),
        (3, (b"est", True)),
        (0, (b"", True)),
    ],
)
def test_the_console_is_read_from_its_end_through_its_rotations(
    tmp_path: Path, limit: int, expected: tuple[bytes, bool]
) -> None:
    (tmp_path / "console.log.1").write_bytes(b"oldest ")
    (tmp_path / "console.log.0").write_bytes(b"older ")
    (tmp_path / "console.log").write_bytes(b"newest")
    (tmp_path / "console.log.new").write_bytes(b"not a rotation")
    assert tail(tmp_path / "console.log", limit) == expected


def test_no_console_is_empty(tmp_path: Path) -> None:
    assert tail(tmp_path / "console.log", 10) == (b"", False)
