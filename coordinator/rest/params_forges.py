"""The bodies of requests that make and change endpoints of forges, and the credentials for them."""

from typing import Literal

import msgspec

from coordinator.domain.fleet import AuthKind
from coordinator.http.errors import ApiError
from coordinator.rest.params import from_bytes


class EndpointParams(msgspec.Struct, frozen=True):
    base_url: str | None = None
    api_base_url: str | None = None
    ca_cert_bundle: str | None = None  # base64, as Go writes bytes
    description: str | None = None

    def changes(self) -> dict[str, object]:
        urls = {"base_url": self.base_url, "api_base_url": self.api_base_url}
        given: dict[str, object] = {name: url.rstrip("/") for name, url in urls.items() if url}
        if self.ca_cert_bundle:
            given["ca_bundle"] = from_bytes("ca_cert_bundle", self.ca_cert_bundle)
        return given | ({} if self.description is None else {"description": self.description})


class UpdateGithubEndpointParams(EndpointParams, frozen=True):
    upload_base_url: str | None = None

    def changes(self) -> dict[str, object]:
        given = super().changes()
        return given | ({"upload_base_url": self.upload_base_url.rstrip("/")} if self.upload_base_url else {})


class CreateGithubEndpointParams(UpdateGithubEndpointParams, frozen=True):
    name: str = ""


class UpdateGiteaEndpointParams(EndpointParams, frozen=True):
    tools_metadata_url: str | None = None
    use_internal_tools_metadata: bool | None = None

    def changes(self) -> dict[str, object]:
        internal = self.use_internal_tools_metadata
        told = {"tools_metadata_url": self.tools_metadata_url} if self.tools_metadata_url else {}
        return super().changes() | told | ({} if internal is None else {"use_internal_tools_metadata": internal})


class CreateGiteaEndpointParams(UpdateGiteaEndpointParams, frozen=True):
    name: str = ""


class GithubPAT(msgspec.Struct, frozen=True):
    oauth2_token: str = ""

    def __repr__(self) -> str:
        return "GithubPAT()"


class GithubApp(msgspec.Struct, frozen=True):
    app_id: int = 0
    installation_id: int = 0
    private_key_bytes: str = ""  # PEM in base64, as Go writes bytes

    def __repr__(self) -> str:
        return f"GithubApp(app_id={self.app_id})"

    def changes(self) -> dict[str, object]:
        given: dict[str, object] = {}
        if self.app_id:
            given["app_id"] = self.app_id
        if self.installation_id:
            given["installation_id"] = self.installation_id
        if self.private_key_bytes:
            given["private_key"] = from_bytes("private_key_bytes", self.private_key_bytes)
        return given


class UpdateCredentialsParams(msgspec.Struct, frozen=True):
    name: str | None = None
    description: str | None = None
    pat: GithubPAT | None = None

    def changes(self, auth: AuthKind) -> dict[str, object]:
        """Of credentials of that kind, which they stay."""
        given: dict[str, object] = {"name": self.name} if self.name else {}
        if self.pat is not None and auth is AuthKind.APP:
            raise ApiError(400, "pat: cannot update PAT credentials for app")
        if self.pat is not None and self.pat.oauth2_token:
            given["token"] = self.pat.oauth2_token
        return given | ({} if self.description is None else {"description": self.description})


class UpdateGiteaCredentialsParams(UpdateCredentialsParams, frozen=True):
    pass


class UpdateGithubCredentialsParams(UpdateCredentialsParams, frozen=True):
    app: GithubApp | None = None

    def changes(self, auth: AuthKind) -> dict[str, object]:
        given = super().changes(auth)
        if self.app is None:
            return given
        if auth is not AuthKind.APP:
            raise ApiError(400, "app: cannot update app credentials for PAT")
        return given | self.app.changes()


class CreateCredentialsParams(msgspec.Struct, frozen=True):
    name: str = ""
    endpoint: str = ""
    description: str | None = None
    pat: GithubPAT | None = None
    app: GithubApp | None = None

    def _values(self, auth: str) -> dict[str, object]:
        given: dict[str, object] = {
            "name": self.name,
            "endpoint": self.endpoint,
            "description": self.description or "",
        }
        if auth == AuthKind.APP:
            asked = {"app_id": 0, "installation_id": 0, "private_key": ""}
            return given | asked | (self.app.changes() if self.app else {})
        return given | {"token": self.pat.oauth2_token if self.pat else ""}


class CreateGithubCredentialsParams(CreateCredentialsParams, frozen=True):
    auth_type: Literal["", "pat", "app"] = "pat"

    def values(self) -> dict[str, object]:
        if self.auth_type == "app" and not (self.app and self.app.app_id):
            raise ApiError(400, "app: app_id, installation_id and private_key_bytes are needed for auth_type 'app'")
        return self._values(self.auth_type)


class CreateGiteaCredentialsParams(CreateCredentialsParams, frozen=True):
    auth_type: Literal["", "pat"] = "pat"  # Gitea has no Apps

    def values(self) -> dict[str, object]:
        return self._values(self.auth_type)
