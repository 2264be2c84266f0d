"""What requests have in common that change what is declared, as GARM's clients send them; and the controller's body.

What is left out, null or empty has GARM's default when an object is made, and stays when it is changed: clients written
in Go send the empty value for what nobody has said.
"""

import base64
from collections.abc import Iterable
from typing import Final

import msgspec

from coordinator.declare_forge import check_bundle
from coordinator.http.errors import ApiError
from hostler import config


class UpdateControllerParams(msgspec.Struct, frozen=True):
    metadata_url: str | None = None
    callback_url: str | None = None
    webhook_url: str | None = None
    minimum_job_age_backoff: int | None = None  # seconds
    agent_url: str | None = None
    allow_insecure_garm_agent: bool | None = None
    ca_cert_bundle: str | None = None  # base64, as Go writes bytes
    clear_ca_cert_bundle: bool | None = None
    enable_agent_tools_sync: bool | None = None
    garm_agent_releases_url: str | None = None
    garm_agent_version: str | None = None

    def changes(self) -> dict[str, str | int]:
        refuse(self, _OF_GARMS_AGENT, "GARM's agent is not served")
        urls = {name: getattr(self, name) for name in ("metadata_url", "callback_url", "webhook_url")}
        addresses = {name: url.rstrip("/") for name, url in urls.items() if url is not None}
        for name, url in addresses.items():
            if url:
                _web_address(name, url)
        age = self.minimum_job_age_backoff
        if age is not None and not 0 <= age <= _LONGEST_BACKOFF:
            raise ApiError(400, f"minimum_job_age_backoff: must be 0 to {_LONGEST_BACKOFF} seconds")
        return {**addresses, **self._bundle(), **({} if age is None else {"minimum_job_age_backoff": age})}

    def _bundle(self) -> dict[str, str | int]:
        if self.clear_ca_cert_bundle:
            return {"ca_bundle": ""}
        if not self.ca_cert_bundle:
            return {}
        bundle = from_bytes("ca_cert_bundle", self.ca_cert_bundle)
        try:
            check_bundle("ca_cert_bundle", bundle)
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        return {"ca_bundle": bundle}


_LONGEST_BACKOFF: Final = 86_400  # forges wait a day for a runner, and no longer
_OF_GARMS_AGENT: Final = (
    "agent_url", "allow_insecure_garm_agent", "enable_agent_tools_sync", "garm_agent_releases_url",
    "garm_agent_version",
)  # fmt: skip


def refuse(params: msgspec.Struct, names: Iterable[str], reason: str) -> None:
    for name in names:
        if getattr(params, name):
            raise ApiError(400, f"{name}: {reason}")


def _web_address(name: str, url: str) -> None:
    try:
        config.check_key(name, lambda: config.web_address(url))
    except ValueError as error:
        raise ApiError(400, str(error)) from None


def from_bytes(name: str, value: str) -> str:
    """Text that came as Go writes bytes: in base64."""
    try:
        return base64.b64decode(value, validate=True).decode()
    except ValueError:
        raise ApiError(400, f"{name}: must be text in base64") from None
