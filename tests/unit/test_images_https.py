"""Images over TLS, from a real server: who it is must be proven, also where it sends on to; what was got is kept."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from coordinator.pki import authority
from coordinator.pki.authority import Authority
from providers.images import download
from providers.images.errors import FetchError, FetchFailed, FetchRefused
from providers.images.store import ImageStore, Room, kept_as_it_is
from providers.images.values import ImageSource
from tests.samples.image_server import ImageServer, content, serving

DISK = content()
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 0.001)


def new_authority() -> Authority:
    return Authority(authority.make("c" * 36, datetime.now(UTC)), "c" * 36)


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    made = new_authority()
    (tmp_path / "ca.pem").write_bytes(made.pem)
    return made


@contextmanager
def secured(
    directory: Path, ca: Authority, name: str = "127.0.0.1", age: timedelta = timedelta()
) -> Iterator[ImageServer]:
    """A server that shows a certificate of that CA, made so long ago, good for an hour."""
    shown = ca.for_server([name], datetime.now(UTC) - age, HOUR)
    (directory / "key.pem").write_bytes(shown.key)
    (directory / "chain.pem").write_bytes(shown.chain)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(directory / "chain.pem", directory / "key.pem")
    with serving(tls) as server:
        yield server


async def fetched(directory: Path, source: ImageSource, ca_file: Path | None = None) -> bytes:
    store = ImageStore(directory / "images", Room(1 << 30, 1 << 30, ca_file=ca_file), kept_as_it_is)
    await store.open()
    try:
        async with store.lease(source, lambda: None) as base:
            return base.path.read_bytes()
    finally:
        await store.close()


async def test_a_server_of_the_configured_authority_is_believed_and_a_download_goes_on_over_tls(
    tmp_path: Path, ca: Authority
) -> None:
    with secured(tmp_path, ca) as server:
        source = server.offer(DISK)
        server.cut_after = [1_000_000]
        assert await fetched(tmp_path, source, tmp_path / "ca.pem") == DISK
        assert [headers.get("Range") for _, headers in server.asked] == [None, "bytes=1000000-"]


async def test_a_server_of_the_systems_authorities_is_believed(
    tmp_path: Path, ca: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    other = tmp_path / "other.pem"
    other.write_bytes(new_authority().pem)
    with secured(tmp_path, ca) as server:
        assert await fetched(tmp_path, server.offer(DISK)) == DISK
        assert await fetched(tmp_path / "again", server.offer(DISK), other) == DISK, "the file adds to them"


@pytest.mark.parametrize(
    ("name", "age", "believed", "said"),
    [
        ("127.0.0.1", timedelta(), False, "self-signed certificate in certificate chain"),
        ("127.0.0.2", timedelta(), True, "IP address mismatch"),
        ("localhost", timedelta(), True, "IP address mismatch"),
        ("127.0.0.1", 2 * HOUR, True, "certificate has expired"),
    ],
)
async def test_any_other_is_refused_with_the_reason_and_told_nothing(
    tmp_path: Path, ca: Authority, name: str, age: timedelta, believed: bool, said: str
) -> None:
    with secured(tmp_path, ca, name, age) as server:
        source = server.offer(DISK)
        await fails(tmp_path, source, FetchFailed, f"its certificate is not good: .*{said}.*ca_file", believed=believed)
        assert not server.asked


async def fails(
    directory: Path, source: ImageSource, kind: type[FetchError], said: str, *, believed: bool = True
) -> None:
    with pytest.raises(kind, match=said):
        await fetched(directory, source, directory / "ca.pem" if believed else None)
    assert not list((directory / "images").glob("*.base"))


async def test_a_way_that_leaves_tls_is_not_followed(tmp_path: Path, ca: Authority) -> None:
    with secured(tmp_path, ca) as server, serving() as plain:
        source = plain.offer(DISK)
        server.redirects = {"/a": plain.url()}
        source = msgspec.structs.replace(source, url=server.url("/a"))
        await fails(tmp_path, source, FetchRefused, "leads to http://.*, which is not encrypted")
        assert not plain.asked
        server.offer(DISK)
        plain.redirects = {"/b": server.url("/c")}
        server.redirects = {"/c": "/image"}
        source = msgspec.structs.replace(source, url=plain.url("/b"))
        assert await fetched(tmp_path, source, tmp_path / "ca.pem") == DISK


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("no certificate")])
async def test_a_file_of_authorities_that_is_none_is_said(
    tmp_path: Path, ca: Authority, spoil: Callable[[Path], object]
) -> None:
    with secured(tmp_path, ca) as server:
        spoil(tmp_path / "ca.pem")
        await fails(tmp_path, server.offer(DISK), FetchFailed, r"ca_file .*ca\.pem cannot be read")
