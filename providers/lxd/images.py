"""Images are those of LXD's own store, by alias or fingerprint. How those of the catalogue get there: catalogue.py."""

from typing import Final

from pylxd import Client

from providers.contract import Arch, ImageUnavailable, InstanceSpec
from providers.lxd import api
from providers.lxd.request import instance_type

ARCHITECTURES: Final = {Arch.AMD64: "x86_64", Arch.ARM64: "aarch64"}


def find(client: Client, spec: InstanceSpec) -> str:
    """The fingerprint of the image that an instance is made from.

    Raises:
        ImageUnavailable: there is none of that name, kind and architecture.
    """
    instance_type(spec.driver)
    named = [image for image in api.images(client) if spec.image in image.names]
    if not named:
        raise ImageUnavailable(
            f"LXD has no image '{spec.image}'", hint="see `lxc image list`; name an alias or a whole fingerprint"
        )
    return fitting(named, spec)


def fitting(images: list[api.Image], spec: InstanceSpec) -> str:
    """The fingerprint of the one that is of the kind and architecture that an instance needs.

    Raises:
        ImageUnavailable: none of them is.
    """
    wanted = instance_type(spec.driver)
    right = [image for image in images if image.type == wanted and image.architecture == ARCHITECTURES[spec.arch]]
    if not right:
        has = ", ".join(f"a {image.type} for {image.architecture}" for image in images)
        raise ImageUnavailable(
            f"LXD's image '{spec.image}' is {has}, not a {wanted} for {ARCHITECTURES[spec.arch]}",
            hint="the pool's provider says which is wanted: lxd for virtual machines, lxd-container for containers",
        )
    return right[0].fingerprint


def names_by_type(client: Client) -> dict[str, tuple[str, ...]]:
    """What can be booted, by LXD's type of instance."""
    found: dict[str, list[str]] = {}
    for image in api.images(client):
        found.setdefault(image.type, []).extend(image.names)
    return {kind: tuple(sorted(set(names))) for kind, names in found.items()}
