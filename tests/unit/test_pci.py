"""Which PCI devices machines can be given, and who gets which. No hardware: the kernel's tree is a fixture."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.errors import ConfigError
from providers.contract import Arch, Bootstrap, DeviceUnavailable, InstanceSpec, Resources
from providers.libvirt.store import Store
from providers.pci import DeviceKind, HostDevices, check_devices, find, usable
from tests.samples.pci import Function, make_sysfs

SUBNET = IPv4Network("10.0.0.0/24")
TWO = (Function("0000:65:00.0", 7), Function("0000:65:00.1", 7, "10de:1aef", "0x040300"), Function("0000:b3:00.0", 9))


def gpu(*addresses: str, ids: tuple[str, ...] = ()) -> DeviceKind:
    return DeviceKind("gpu", addresses, ids)


def test_devices_are_found_by_their_ids_with_all_functions_that_go_together(tmp_path: Path) -> None:
    found = find([gpu(ids=("10de:20b0",))], make_sysfs(tmp_path, *TWO))
    assert found.units == {"gpu": (("0000:65:00.0", "0000:65:00.1"), ("0000:b3:00.0",))}
    assert (found.counts, found.refused) == ({"gpu": 2}, ())


def test_what_is_named_in_two_ways_is_counted_once(tmp_path: Path) -> None:
    kind = gpu("0000:65:00.1", "0000:65:00.0", "0000:65:00.0", ids=("10de:20b0", "10de:1aef"))
    assert find([kind], make_sysfs(tmp_path, *TWO)).counts == {"gpu": 2}


def test_functions_of_one_slot_that_have_groups_of_their_own_are_devices_of_their_own(tmp_path: Path) -> None:
    tree = make_sysfs(tmp_path, Function("0000:65:00.0", 7), Function("0000:65:00.1", 8))
    found = find([gpu("0000:65:00.0"), DeviceKind("fpga", ("0000:65:00.1",))], tree)
    assert found.units == {"gpu": (("0000:65:00.0",),), "fpga": (("0000:65:00.1",),)}


def test_a_bridge_in_the_group_stays_with_the_kernel(tmp_path: Path) -> None:
    tree = make_sysfs(tmp_path, Function("0000:64:00.0", 7, kind="0x060400"), *TWO)
    assert find([gpu("0000:65:00.0")], tree).units["gpu"] == (("0000:65:00.0", "0000:65:00.1"),)


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ([gpu("0000:01:00.0")], "device 'gpu': 0000:01:00.0 cannot be given to machines: there is no such device"),
        ([gpu(ids=("10de:ffff",))], "device 'gpu': there is no PCI device with the id 10de:ffff"),
        ([gpu("0000:02:00.0")], "no IOMMU keeps it from the host's memory; turn VT-d, AMD-Vi or SMMU on"),
        ([gpu("0000:03:00.0")], "its IOMMU group 5 holds other devices too (0000:04:00.0)"),
        ([gpu("0000:05:00.0")], "it is a PCI bridge"),
        (
            [gpu("0000:65:00.0"), DeviceKind("audio", ("0000:65:00.1",))],
            "device 'audio': 0000:65:00.1 cannot be given to machines: 0000:65:00.0 is of the device 'gpu' already",
        ),
    ],
)
def test_what_cannot_be_given_is_told_and_the_rest_is_used(
    tmp_path: Path, kinds: list[DeviceKind], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    others = (
        Function("0000:02:00.0", None),
        Function("0000:03:00.0", 5, "8086:1521"),
        Function("0000:04:00.0", 5, "8086:1522"),
        Function("0000:05:00.0", 6, kind="0x060400"),
    )
    tree = make_sysfs(tmp_path, *TWO, *others)
    kinds = [*kinds, DeviceKind("good", ("0000:b3:00.0",))]
    with pytest.raises(ConfigError) as caught:
        check_devices(kinds, tree)
    assert "key 'device': " in str(caught.value)
    assert said in str(caught.value)
    assert usable(kinds, tree).counts["good"] == 1
    logged = capfd.readouterr()
    assert "device_refused" in logged.out + logged.err


def test_a_host_without_pci_has_no_devices(tmp_path: Path) -> None:
    assert find([], tmp_path) == HostDevices({}, ())
    assert find([gpu(ids=("10de:20b0",))], tmp_path).counts == {"gpu": 0}


def test_every_device_is_well_where_all_can_be_given(tmp_path: Path) -> None:
    check_devices([gpu("0000:65:00.0", "0000:b3:00.0")], make_sysfs(tmp_path, *TWO))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"name": "A100", "ids": ["10de:20b0"]}, "'A100' is no name of a device"),
        ({"name": "gpu"}, "addresses: name some, or vendor:product ids in ids"),
        ({"name": "gpu", "addresses": ["65:00.0"]}, "'65:00.0' is no PCI address"),
        ({"name": "gpu", "addresses": ["0000:65:20.0"]}, "'0000:65:20.0' is no PCI address"),
        ({"name": "gpu", "ids": ["10DE:20b0"]}, "'10DE:20b0' is no vendor:product"),
        ({"name": "gpu", "ids": ["10de:20b0"], "count": 2}, "unknown field"),
    ],
)
def test_a_wrong_table_is_told_what_is_allowed(table: dict[str, object], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert(table, DeviceKind)


# --- who gets which ---

HOST = HostDevices({"gpu": (("0000:65:00.0", "0000:65:00.1"), ("0000:b3:00.0",)), "fpga": (("0000:17:00.0",),)})


def spec(**devices: int) -> InstanceSpec:
    instance_id = str(uuid.uuid4())
    return InstanceSpec(
        instance_id=instance_id,
        generation=1,
        name=f"m-{instance_id[:8]}",
        image="debian",
        resources=Resources(vcpus=1, memory_mib=64, disk_gib=1, devices=devices),
        arch=Arch.AMD64,
        pool_id="pool",
        bootstrap=Bootstrap("http://192.0.2.1/m", "http://192.0.2.1/c", "token"),
    )


def test_the_first_free_ones_are_given_with_all_their_functions() -> None:
    assert HOST.choose({}, ()) == ()
    assert HOST.choose({"gpu": 1, "fpga": 1}, ()) == ("0000:17:00.0", "0000:65:00.0", "0000:65:00.1")
    assert HOST.choose({"gpu": 1}, {"0000:65:00.1"}) == ("0000:b3:00.0",)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [({"gpu": 3}, "3 gpu wanted, 2 free of this host's 2"), ({"tpu": 1}, "1 tpu wanted, 0 free of this host's 0")],
)
def test_too_few_are_told(wanted: dict[str, int], said: str) -> None:
    with pytest.raises(DeviceUnavailable, match=said):
        HOST.choose(wanted, ())


def test_a_device_is_a_machines_own_until_it_is_removed_whoever_serves_meanwhile(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = store.begin(spec(gpu=1), SUBNET, (), HOST)
    assert first.functions == ("0000:65:00.0", "0000:65:00.1")
    again = Store(tmp_path)  # as after a restart of the agent
    assert again.begin(spec(gpu=1), SUBNET, (), HOST).functions == ("0000:b3:00.0",)
    refused = spec(gpu=1)
    with pytest.raises(DeviceUnavailable, match="0 free"):
        again.begin(refused, SUBNET, (), HOST)
    assert refused.instance_id not in again.ids()
    again.remove(first.instance_id)
    assert again.begin(spec(gpu=1), SUBNET, (), HOST).functions == first.functions


def test_what_a_domain_without_a_record_has_is_not_given(tmp_path: Path) -> None:
    assert Store(tmp_path).begin(spec(gpu=1), SUBNET, (), HOST, {"0000:65:00.0"}).functions == ("0000:b3:00.0",)


def test_a_record_of_before_has_no_devices(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = store.begin(spec(), SUBNET)
    old = msgspec.json.decode(store.folder(record.instance_id).state.read_bytes())
    del old["functions"], old["resources"]["devices"]
    store.folder(record.instance_id).state.write_bytes(msgspec.json.encode(old))
    found = store.record(record.instance_id)
    assert found is not None
    assert (found.functions, found.resources.devices) == ((), {})


def test_creates_at_once_never_get_the_same_device(tmp_path: Path) -> None:
    store = Store(tmp_path)
    devices = HostDevices({"gpu": tuple((f"0000:{n:02x}:00.0",) for n in range(6))})
    start = threading.Barrier(8)

    def create() -> tuple[str, ...]:
        start.wait()
        try:
            return store.begin(spec(gpu=1), SUBNET, (), devices).functions
        except DeviceUnavailable:
            return ()

    with ThreadPoolExecutor(8) as pool:
        given_ = sorted(future.result() for future in [pool.submit(create) for _ in range(8)])
    assert given_ == [(), (), *devices.units["gpu"]]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3)), max_size=30))
def test_never_is_a_device_given_twice_nor_refused_while_it_is_free(steps: list[tuple[bool, int]]) -> None:
    devices = HostDevices({"gpu": tuple((f"0000:{n:02x}:00.0", f"0000:{n:02x}:00.1") for n in range(4))})
    held: list[tuple[str, ...]] = []
    for ends, count in steps:
        if ends and held:
            held.pop(count % len(held))
            continue
        taken = [function for one in held for function in one]
        try:
            held.append(devices.choose({"gpu": count}, taken))
        except DeviceUnavailable:
            assert len(taken) // 2 + count > 4
        everything = [function for one in held for function in one]
        assert len(everything) == len(set(everything)) <= 8
