"""XML as libvirt takes and gives it: elements in, text out, and back."""

from xml.etree import ElementTree as ET


def element(
    tag: str, attributes: dict[str, str] | None = None, *children: ET.Element, text: str | None = None
) -> ET.Element:
    """An element with its children, so that a document is written in the order in which it is read."""
    made = ET.Element(tag, attributes or {})
    made.text = text
    made.extend(children)
    return made


def render(root: ET.Element) -> str:
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


def parse(text: str) -> ET.Element:
    """Read a document that libvirt itself wrote; not for anybody else's XML."""
    return ET.fromstring(text)  # noqa: S314 (the hypervisor's own answer, over its root-only socket)
