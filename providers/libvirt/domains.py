"""The calls on libvirt domains that the provider makes. Blocks; errors are libvirt's own."""

import contextlib
from pathlib import Path
from typing import Final

import libvirt

from providers.contract import Arch
from providers.libvirt.domain import NAMESPACE, Acceleration, DomainPlan, Tag, domain_xml, read_functions, read_tag

# Where the system daemon keeps what QEMU said: a file per domain name, which nothing would ever remove.
_LOGS: Final = Path("/var/log/libvirt/qemu")


def is_active(conn: libvirt.virConnect, instance_id: str) -> bool:
    domain = _look_up(conn, instance_id)
    try:
        return domain is not None and bool(domain.isActive())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return False
        raise


class Starter:
    """Starts transient domains: libvirt keeps no definition that could be left behind.

    The first of a kind proves that this libvirt knows all of what we say: it would pass over the rest in silence. The
    next ones differ in values alone, and reading the schema anew takes 5 ms of a processor. Safe for several threads.
    """

    def __init__(self) -> None:
        self._proven: set[tuple[Arch, Acceleration, bool]] = set()

    def start(self, conn: libvirt.virConnect, plan: DomainPlan) -> None:
        kind = plan.arch, plan.acceleration, bool(plan.functions)
        conn.createXML(domain_xml(plan), 0 if kind in self._proven else libvirt.VIR_DOMAIN_START_VALIDATE)
        self._proven.add(kind)


def destroy(conn: libvirt.virConnect, instance_id: str) -> None:
    """Power off at once; returns when the process is gone. Absent: fine."""
    domain = _look_up(conn, instance_id)
    if domain is None:
        return
    try:
        domain.destroy()
    except libvirt.libvirtError:
        if is_active(conn, instance_id):
            raise


def name(conn: libvirt.virConnect, instance_id: str) -> str:
    """Empty when there is no such domain."""
    domain = _look_up(conn, instance_id)
    return domain.name() if domain is not None else ""


def is_taken(conn: libvirt.virConnect, name: str) -> bool:
    """Whether there is a domain of that name, whosever it is."""
    try:
        conn.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return False
        raise
    return True


def remove_logs(domain_name: str) -> None:
    """What libvirt logged of a domain that is gone. An agent without root's rights leaves it to the operator."""
    with contextlib.suppress(OSError):
        # Not by glob(): each pattern would be compiled, and kept by the library for as long as it has room.
        for log in _LOGS.iterdir():
            if log.name == f"{domain_name}.log" or log.name.startswith(f"{domain_name}.log."):
                log.unlink(missing_ok=True)


def tagged(conn: libvirt.virConnect, owner: str) -> dict[str, tuple[Tag, str]]:
    """The active domains that `owner` made: tag and name by instance id."""
    found = {}
    for domain in conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
        read = _tag_of(domain)
        if read is not None and read.owner == owner:
            found[read.instance_id] = (read, domain.name())
    return found


def functions(conn: libvirt.virConnect) -> set[str]:
    """PCI addresses that active domains have, whoever made them."""
    found: set[str] = set()
    for domain in conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
        try:
            found |= read_functions(domain.XMLDesc())
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
    return found


def _tag_of(domain: libvirt.virDomain) -> Tag | None:
    try:
        return read_tag(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE))
    except libvirt.libvirtError as error:
        if error.get_error_code() in {libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_DOMAIN_METADATA}:
            return None
        raise


def _look_up(conn: libvirt.virConnect, instance_id: str) -> libvirt.virDomain | None:
    try:
        return conn.lookupByUUIDString(instance_id)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
