"""Forge servers, and who we are to them, as they are declared."""

from typing import Final
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from coordinator.declare_base import Declared, check_description, check_name, check_url
from coordinator.domain.fleet import AuthKind, ForgeKind
from hostler import config

# 900 points a minute and endpoint, 5 for a write (GitHub REST, rate limits).
_GITHUB_REGISTRATIONS: Final = 180
_LARGEST_BUNDLE: Final = 256 * 1024
_SMALLEST_KEY: Final = 2048  # bits; GitHub's own keys of Apps have as many
_INT64: Final = 2**63 - 1


class EndpointDeclaration(Declared, frozen=True):
    name: str
    base_url: str = "https://github.com"
    api_base_url: str = "https://api.github.com"
    kind: ForgeKind = ForgeKind.GITHUB
    registrations_per_minute: int | None = None  # of runners, by one credential; 0: no limit
    upload_base_url: str = ""  # kept for clients that ask for it; nothing is uploaded
    description: str = ""
    ca_bundle: str = ""  # PEM: certificates of those who vouch for the server
    tools_metadata_url: str = ""  # of a Gitea: where its runner's releases are listed
    use_internal_tools_metadata: bool = False  # of a Gitea: rather the releases that Hostler knows itself

    @property
    def registration_limit(self) -> int:
        """As declared, or what GitHub documents: limited on its own servers, not on a GHES (where it is off)."""
        if self.registrations_per_minute is not None:
            return self.registrations_per_minute
        host = urlsplit(self.api_base_url).hostname or ""
        return _GITHUB_REGISTRATIONS if host == "api.github.com" or host.endswith(".ghe.com") else 0

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_url("base_url", self.base_url)
        # Webhooks name their forge by the host alone.
        config.check(not urlsplit(self.base_url).path, f"base_url: '{self.base_url}' must end with the host")
        check_url("api_base_url", self.api_base_url)
        if self.upload_base_url:
            check_url("upload_base_url", self.upload_base_url)
        check_description(self.description)
        per_minute = self.registrations_per_minute
        config.check(per_minute is None or 0 <= per_minute <= 100_000, "registrations_per_minute: must be 0 to 100000")
        check_bundle("ca_bundle", self.ca_bundle)
        if self.tools_metadata_url:
            config.check_key("tools_metadata_url", lambda: config.web_address(self.tools_metadata_url))
        says_tools = bool(self.tools_metadata_url) or self.use_internal_tools_metadata
        config.check(
            self.kind is ForgeKind.GITEA or not says_tools,
            "tools_metadata_url, use_internal_tools_metadata: are of Gitea; GitHub lists its runner itself",
        )


class CredentialsDeclaration(Declared, frozen=True):
    """A user's token, or a GitHub App with its private key."""

    name: str
    endpoint: str
    token: str | None = None  # None, as of all secrets: as it is
    description: str = ""
    app_id: int = 0
    installation_id: int = 0
    private_key: str | None = None  # PEM

    @property
    def auth(self) -> AuthKind:
        return AuthKind.APP if self.app_id or self.installation_id or self.private_key else AuthKind.TOKEN

    @property
    def secret(self) -> str | None:
        return self.private_key if self.auth is AuthKind.APP else self.token

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_description(self.description)
        if self.auth is AuthKind.APP:
            self._check_app()
        elif self.token is not None:
            ok = self.token.isascii() and self.token.isprintable() and " " not in self.token
            config.check(bool(self.token) and ok, "token: must not be empty, nor hold spaces or line breaks")

    def _check_app(self) -> None:
        config.check(not self.token, "token: an App has none: leave it out, or app_id, installation_id and private_key")
        config.check(0 < self.app_id <= _INT64, "app_id: must be the App's number")
        config.check(0 < self.installation_id <= _INT64, "installation_id: must be the installation's number")
        if self.private_key is None:
            return
        # With or without the end of its last line, it is the same.
        msgspec.structs.force_setattr(self, "private_key", self.private_key.rstrip("\r\n"))
        try:
            key = load_pem_private_key(self.private_key.encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None  # the library's words may quote the key
        ok = isinstance(key, RSAPrivateKey) and key.key_size >= _SMALLEST_KEY
        config.check(ok, "private_key: must be a PEM of an RSA key without a password, as GitHub gives for an App")

    def __repr__(self) -> str:
        return f"CredentialsDeclaration(name={self.name!r}, endpoint={self.endpoint!r})"


def check_bundle(key: str, bundle: str) -> None:
    """
    Raises:
        ValueError: it holds no certificates; an empty one is fine.
    """
    if not bundle:
        return
    config.check(len(bundle) <= _LARGEST_BUNDLE, f"{key}: must have at most 256 KiB")
    try:
        x509.load_pem_x509_certificates(bundle.encode())
    except ValueError:
        config.check(False, f"{key}: must be one or more certificates as PEM")
