"""`hostler image`: the catalogue of images, and which hosts have them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from hostler import toml
from hostler.cli import image_views
from hostler.cli.client import DEFAULT, TIMEOUT_SECONDS, connected
from hostler.cli.options import Coordinator, Json, show
from hostler.errors import ConfigError
from protos.hostler.v1.admin_pb2 import (
    ApplyRequest,
    GetImageRequest,
    ListImagesRequest,
    PrefetchImagesRequest,
    RemoveImageRequest,
)

image = App(name="image", help="Images that machines boot: where they are to be had, and which hosts have them.")

Name = Annotated[str, Parameter(name="NAME", help="The image's name, as pools give it.")]


@image.command(name="list")
def image_list(*, json: Json = False, coordinator: Coordinator = DEFAULT) -> None:
    """List the catalogue."""
    with connected(coordinator) as admin:
        answer = admin.ListImages(ListImagesRequest(), timeout=TIMEOUT_SECONDS)
    show(answer, image_views.images(answer.images), json=json)


@image.command(name="show")
def image_show(name: Name, /, *, json: Json = False, coordinator: Coordinator = DEFAULT) -> None:
    """Show an image and the hosts that have it, fetch it, or could not."""
    with connected(coordinator) as admin:
        answer = admin.GetImage(GetImageRequest(name=name), timeout=TIMEOUT_SECONDS)
    show(answer, image_views.image(answer, datetime.now(UTC)), json=json)


@image.command
def add(
    name: Name,
    /,
    *,
    url: str,
    sha256: str,
    arch: str = "amd64",
    format_: Annotated[str, Parameter(name="--format")] = "",
    compression: str = "",
    coordinator: Coordinator = DEFAULT,
) -> None:
    """Add an image to the catalogue, or change it: the same as an [[image]] table of `hostler apply`.

    Machines that run keep what they were made of.

    Parameters
    ----------
    url
        http, https, or file of a directory that the agents' configuration allows.
    sha256
        Of the file at the URL: 64 hexadecimal digits, or the name of a file that begins with them, as sha256sum writes.
    arch
        amd64 or arm64; each has an entry of its own.
    format_
        Of the disk: qcow2 or raw, or lxd for a tarball of LXD's; by default as the file's name says.
    compression
        Of the file: none, gz, xz or zstd; by default as the file's name says.
    """
    said = {"name": name, "url": url, "sha256": _digest(sha256), "arch": arch, "format": format_}
    entry: dict[str, Any] = {key: value for key, value in {**said, "compression": compression}.items() if value}
    text = toml.written({"image": [entry]})
    with connected(coordinator) as admin:
        answer = admin.Apply(ApplyRequest(document=text), timeout=TIMEOUT_SECONDS)
    for change in answer.changes or ["nothing to change"]:
        print(image_views.clean(change))


@image.command
def remove(name: Name, /, *, arch: str = "", coordinator: Coordinator = DEFAULT) -> None:
    """Take an image out of the catalogue; refused while a pool names it.

    Parameters
    ----------
    arch
        Only the entry for this architecture.
    """
    with connected(coordinator) as admin:
        answer = admin.RemoveImage(RemoveImageRequest(name=name, arch=arch), timeout=TIMEOUT_SECONDS)
    for removed in answer.removed:
        print(image_views.clean(f"image {removed.name}/{removed.arch}: removed"))


@image.command
def prefetch(name: Name, /, *, host: str = "", json: Json = False, coordinator: Coordinator = DEFAULT) -> None:
    """Let hosts fetch an image before a machine needs it; those that are away do so when they are back.

    Parameters
    ----------
    host
        Only this one.
    """
    with connected(coordinator) as admin:
        answer = admin.PrefetchImages(PrefetchImagesRequest(name=name, host=host), timeout=TIMEOUT_SECONDS)
    show(answer, image_views.prefetch(answer), json=json)


def _digest(value: str) -> str:
    path = Path(value)
    if len(value) == 64 or not path.is_file():
        return value
    try:
        return path.read_text(encoding="utf-8").split()[0]
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise ConfigError(f"--sha256: '{value}' holds no digest: {error}") from None
