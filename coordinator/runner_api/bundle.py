"""All that a guest needs to start its runner, in one answer: JSON, or an archive for guests that are shell scripts."""

import io
import tarfile
from collections.abc import Mapping

import msgspec

TAR = "application/x-tar"


class Bundle(msgspec.Struct, frozen=True):
    """Holds secrets. In JSON the files are base64."""

    runner_name: str
    runner_labels: list[str]
    forge_type: str
    runner_registration_url: str
    service_name: str
    unit: str  # of systemd, for the runner's service
    files: Mapping[str, bytes]  # that the runner's program starts from, to be put into its folder

    def __repr__(self) -> str:
        return f"Bundle(runner_name={self.runner_name!r})"

    def as_json(self) -> bytes:
        return msgspec.json.encode(self)

    def as_tar(self) -> bytes:
        """`files/` with the runner's files, and beside it `unit` and `service-name`."""
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name, content in self.files.items():
                _add(archive, f"files/{name}", content)
            _add(archive, "unit", self.unit.encode())
            _add(archive, "service-name", self.service_name.encode())
        return made.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o600
    archive.addfile(member, io.BytesIO(content))
