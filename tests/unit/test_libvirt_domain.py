"""The XML of machines and of their network."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import cast
from xml.etree import ElementTree as ET

import libvirt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.addresses import lowest_free, mac_address
from providers.contract import Arch, HypervisorUnavailable, Resources
from providers.libvirt import domains
from providers.libvirt.domain import NAMESPACE, Acceleration, DomainPlan, Tag, domain_xml, read_functions, read_tag
from providers.libvirt.network import check_network, network_xml
from providers.libvirt.settings import LibvirtSettings

ID = "0b8e7a52-7a53-4c0e-9d5b-0f6a1c2d3e4f"
PLAN = DomainPlan(
    tag=Tag(ID, 3, "/var/lib/hostler-agent/instances"),
    name="hostler-1",
    arch=Arch.AMD64,
    resources=Resources(vcpus=4, memory_mib=8192, disk_gib=40),
    acceleration=Acceleration.KVM,
    disk=Path("/i/disk.qcow2"),
    base=Path("/images/debian.qcow2"),
    base_format="qcow2",
    seed=Path("/i/seed.iso"),
    console=Path("/i/console.log"),
    firmware_variables=Path("/i/firmware.fd"),
    network="hostler",
    port="h0ad50001-2",
    mac="52:54:00:d5:00:02",
)


def domain(**changes: object) -> ET.Element:
    return ET.fromstring(domain_xml(msgspec.structs.replace(PLAN, **changes)))  # noqa: S314 (our own text)


def attribute(root: ET.Element, path: str, name: str) -> str | None:
    found = root.find(path)
    return None if found is None else found.get(name)


def test_a_machine_ends_with_its_guest() -> None:
    root = domain()
    assert [root.findtext(f"on_{event}") for event in ("poweroff", "reboot", "crash")] == ["destroy"] * 3


def test_a_machine_has_what_its_flavor_says() -> None:
    root = domain()
    assert root.findtext("uuid") == ID
    assert root.findtext("vcpu") == "4"
    assert (root.findtext("memory"), attribute(root, "memory", "unit")) == ("8192", "MiB")


@pytest.mark.parametrize(
    ("acceleration", "kind", "cpu"),
    [(Acceleration.KVM, "kvm", "host-passthrough"), (Acceleration.TCG, "qemu", "maximum")],
)
def test_acceleration_decides_type_and_cpu(acceleration: Acceleration, kind: str, cpu: str) -> None:
    root = domain(acceleration=acceleration)
    assert (root.get("type"), attribute(root, "cpu", "mode")) == (kind, cpu)


def test_libvirt_asks_for_all_that_an_x86_processor_can_at_once() -> None:
    unwanted = ".//{http://libvirt.org/schemas/domain/qemu/1.0}del"
    assert [found.get("capability") for found in domain().iterfind(unwanted)] == ["cpu-unavailable-features"]
    assert domain(arch=Arch.ARM64).find(unwanted) is None


def test_a_guest_is_cut_off_from_its_neighbours_and_from_devices_it_does_not_need() -> None:
    devices = domain().find("devices")
    assert devices is not None
    assert attribute(devices, "interface/port", "isolated") == "yes"
    assert attribute(devices, "controller[@type='usb']", "model") == "none"
    assert {"graphics", "video", "sound", "filesystem", "hostdev"}.isdisjoint(child.tag for child in devices)


def test_each_function_of_a_hosts_device_is_passed_through_and_given_back() -> None:
    root = domain(functions=("0000:65:00.0", "0000:65:00.1", "0001:0a:1f.7"))
    passed = root.findall("devices/hostdev")
    assert [one.attrib for one in passed] == [{"mode": "subsystem", "type": "pci", "managed": "yes"}] * 3
    addresses = [address.attrib for address in root.iterfind("devices/hostdev/source/address")]
    assert addresses == [
        {"domain": "0x0000", "bus": "0x65", "slot": "0x00", "function": "0x0"},
        {"domain": "0x0000", "bus": "0x65", "slot": "0x00", "function": "0x1"},
        {"domain": "0x0001", "bus": "0x0a", "slot": "0x1f", "function": "0x7"},
    ]


def started_in_a_trial(conn: libvirt.virConnect, root: ET.Element) -> libvirt.virDomain:
    """By libvirt's test driver, which needs no hardware and knows neither KVM nor our network; by the real schema."""
    root.set("type", "test")
    kind = root.find("os/type")
    network = root.find("devices/interface/source")
    assert kind is not None
    assert network is not None
    kind.attrib.clear()
    network.set("network", "default")
    return conn.createXML(ET.tostring(root, encoding="unicode"), libvirt.VIR_DOMAIN_START_VALIDATE)


@pytest.fixture
def trial() -> Iterator[libvirt.virConnect]:
    conn = libvirt.open("test:///default")
    yield conn
    conn.close()


def test_libvirt_takes_the_devices_by_its_schema_and_tells_what_runs_with_which(trial: libvirt.virConnect) -> None:
    functions = ("0000:65:00.0", "0001:0a:1f.7")
    running = started_in_a_trial(trial, domain(functions=functions))
    assert domains.functions(trial) == set(functions)
    running.destroy()
    assert domains.functions(trial) == set()


@pytest.mark.parametrize("arch", Arch)
@pytest.mark.parametrize("acceleration", Acceleration)
def test_libvirts_schema_knows_all_that_we_say(
    trial: libvirt.virConnect, arch: Arch, acceleration: Acceleration
) -> None:
    """A libvirt passes over what it does not know, unless it is told to look: a wall would be missing in silence."""
    started_in_a_trial(trial, domain(arch=arch, acceleration=acceleration))
    wrong = domain(arch=arch, acceleration=acceleration)
    port = wrong.find("devices/interface/port")
    assert port is not None
    port.set("isolatd", port.attrib.pop("isolated"))
    with pytest.raises(libvirt.libvirtError, match="schema"):
        started_in_a_trial(trial, wrong)


def test_the_first_machine_of_a_kind_is_held_to_the_schema_and_the_next_save_the_time() -> None:
    flags: list[int] = []

    class Connection:
        def createXML(self, _xml: str, flag: int) -> None:  # noqa: N802 - libvirt's name
            if "refused" in _xml:
                raise libvirt.libvirtError("refused")
            flags.append(flag)

    starter, conn = domains.Starter(), cast("libvirt.virConnect", Connection())
    with pytest.raises(libvirt.libvirtError):
        starter.start(conn, msgspec.structs.replace(PLAN, name="refused"))
    other = msgspec.structs.replace(PLAN, name="another", resources=Resources(vcpus=1, memory_mib=64, disk_gib=1))
    arm64, passing = (
        msgspec.structs.replace(PLAN, **change) for change in ({"arch": Arch.ARM64}, {"functions": ("0000:65:00.0",)})
    )
    for plan in (PLAN, other, arm64, PLAN, passing, arm64):
        starter.start(conn, plan)
    checked = libvirt.VIR_DOMAIN_START_VALIDATE
    assert flags == [checked, 0, checked, 0, checked, 0]


def test_devices_lie_on_the_root_bus_without_the_interface_of_old() -> None:
    devices = domain().find("devices")
    assert devices is not None
    virtio = [one for one in devices if one.tag in {"disk", "interface", "rng", "memballoon"}]
    assert len(virtio) == 5
    models = [one.get("model") or attribute(one, "model", "type") for one in virtio]
    assert models == ["virtio-non-transitional"] * 5
    slots = [(attribute(one, "address", "bus"), attribute(one, "address", "slot")) for one in virtio]
    assert slots == [("0x00", f"0x0{slot}") for slot in range(2, 7)]


def test_what_a_domain_has_is_read_whoever_wrote_it() -> None:
    functions = ("0000:65:00.0", "0001:0a:1f.7")
    assert read_functions(domain_xml(msgspec.structs.replace(PLAN, functions=functions))) == set(functions)
    assert read_functions(domain_xml(PLAN)) == set()
    others = (
        "<domain><devices><hostdev type='usb'><source><address bus='1' device='2'/></source></hostdev>"
        "<hostdev mode='subsystem' type='pci' managed='no'><driver name='vfio'/>"
        "<source><address bus='0x2' slot='1' function='0x3'/></source><address type='pci' bus='0x09'/></hostdev>"
        "</devices></domain>"
    )
    assert read_functions(others) == {"0000:02:01.3"}


def test_the_seed_is_read_only_and_the_overlay_is_not() -> None:
    disks = {attribute(disk, "source", "file"): disk for disk in domain().iter("disk")}
    assert disks["/i/seed.iso"].find("readonly") is not None
    assert disks["/i/disk.qcow2"].find("readonly") is None


def test_an_arm64_machine_keeps_its_firmware_variables_with_its_disk() -> None:
    root = domain(arch=Arch.ARM64, acceleration=Acceleration.TCG)
    assert (attribute(root, "os/type", "arch"), attribute(root, "os/type", "machine")) == ("aarch64", "virt")
    assert root.findtext("os/nvram") == "/i/firmware.fd"


@pytest.mark.parametrize(
    ("acceleration", "gic", "cpu"), [(Acceleration.KVM, "host", "host-passthrough"), (Acceleration.TCG, "3", "maximum")]
)
def test_an_arm64_machine_has_what_its_acceleration_can_do(acceleration: Acceleration, gic: str, cpu: str) -> None:
    root = domain(arch=Arch.ARM64, acceleration=acceleration)
    assert (attribute(root, "features/gic", "version"), attribute(root, "cpu", "mode")) == (gic, cpu)


def test_an_arm64_machine_has_no_part_that_only_a_pc_has() -> None:
    arm, pc = domain(arch=Arch.ARM64), domain()
    for path in ("features/apic", "devices/panic"):
        assert (arm.find(path) is None, pc.find(path) is None) == (True, False)
    for path in ("features/gic", "os/loader", "os/nvram"):
        assert (arm.find(path) is None, pc.find(path) is None) == (False, True)
    assert attribute(arm, "os/loader", "readonly") == "yes", "the firmware is every machine's"
    assert arm.find("features/acpi") is not None, "power-off and reboot are told by it"


def test_an_arm64_machine_has_the_same_devices_as_another() -> None:
    arm, pc = domain(arch=Arch.ARM64), domain()
    for path in ("disk", "interface", "serial", "rng", "memballoon", "controller"):
        alike = [[ET.tostring(found).strip() for found in root.iterfind(f"devices/{path}")] for root in (arm, pc)]
        assert alike[0] == alike[1] != []
    assert {attribute(disk, "target", "bus") for disk in arm.iter("disk")} == {"virtio"}


@given(owner=st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"])))
def test_a_tag_is_read_as_it_was_written(owner: str) -> None:
    tag = Tag(ID, 7, owner)
    written = domain(tag=tag).find(f"metadata/{{{NAMESPACE}}}instance")
    assert written is not None
    assert read_tag(ET.tostring(written, encoding="unicode")) == tag


def test_a_foreign_tag_is_not_ours() -> None:
    assert read_tag("<instance id='x'/>") is None
    assert read_tag("<instance id='x' generation='one' owner='/'/>") is None


def test_addresses_of_one_subnet_have_different_macs() -> None:
    subnet = IPv4Network("10.213.0.0/22")
    assert len({mac_address(address) for address in subnet}) == subnet.num_addresses
    assert mac_address(IPv4Address("10.213.0.2")) == "52:54:00:d5:00:02"


def test_addresses_are_given_out_from_the_lowest_until_none_is_left() -> None:
    subnet = IPv4Network("10.0.0.0/29")
    taken: set[IPv4Address] = set()
    while (address := lowest_free(subnet, taken)) is not None:
        taken.add(address)
    assert taken == {IPv4Address(f"10.0.0.{last}") for last in range(2, 7)}
    assert lowest_free(subnet, taken - {IPv4Address("10.0.0.4")}) == IPv4Address("10.0.0.4")


def test_the_network_has_dns_and_no_dhcp() -> None:
    root = ET.fromstring(network_xml(LibvirtSettings(network="ci", subnet="10.9.0.0/24")))  # noqa: S314 (our own text)
    assert attribute(root, "forward", "mode") == "nat"
    assert (attribute(root, "ip", "address"), attribute(root, "ip", "prefix")) == ("10.9.0.1", "24")
    assert attribute(root, "dns", "enable") == "yes"
    assert root.find(".//dhcp") is None


def test_a_machines_port_has_the_name_that_its_rules_go_by() -> None:
    assert attribute(domain(), "devices/interface/target", "dev") == "h0ad50001-2"
    assert attribute(domain(), "devices/interface/port", "isolated") == "yes"


def test_the_image_below_the_disk_stays_its_owners() -> None:
    root = domain()
    assert attribute(root, "devices/disk/backingStore/source", "file") == "/images/debian.qcow2"
    assert attribute(root, "devices/disk/backingStore/format", "type") == "qcow2"
    assert attribute(root, "devices/disk/backingStore/source/seclabel", "relabel") == "no"


@pytest.mark.parametrize(
    ("has", "said"),
    [
        ('<bridge name="virbr7"/>', "with the bridge virbr7 instead of ci0"),
        ("", "with no bridge instead of ci0"),
    ],
)
def test_a_network_on_another_bridge_than_the_rules_are_for_is_refused(has: str, said: str) -> None:
    settings = LibvirtSettings(network="ci", subnet="10.9.0.0/24")
    check_network(network_xml(settings), settings)
    xml = network_xml(settings).replace('<bridge name="ci0" stp="off" delay="0" />', has)
    with pytest.raises(HypervisorUnavailable, match=said) as refused:
        check_network(xml, settings)
    assert "virsh net-destroy ci" in str(refused.value)
