"""What machines are told of the world beyond us: by which proxy they reach it, and whom they are to trust."""

from collections.abc import Mapping

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.domain.fleet import Pool
from coordinator.store.catalog import ForgeAccess
from coordinator.store.store import Store
from providers.exec.spec import ProxyConfig

_NAME_DIGITS = 16


class Outside(msgspec.Struct, frozen=True):
    """May hold a password."""

    proxy: ProxyConfig = ProxyConfig()
    ca_bundle: str = ""  # PEM, each certificate once

    @property
    def certificates(self) -> Mapping[str, str]:
        """Each as PEM, by a name that stays the same."""
        found = _certificates(self.ca_bundle)
        return {f"{one.fingerprint(SHA256()).hex()[:_NAME_DIGITS]}.pem": _pem(one) for one in found}

    @property
    def environment(self) -> Mapping[str, str]:
        """As programs look for a proxy: some in lower, some in upper case."""
        said = {name: getattr(self.proxy, name) for name in ("http_proxy", "https_proxy", "no_proxy")}
        given = {name: value for name, value in said.items() if value}
        return given | {name.upper(): value for name, value in given.items()}


def merged(*bundles: str) -> str:
    """One bundle, with each certificate once."""
    return "".join(_pem(one) for one in dict.fromkeys(one for bundle in bundles for one in _certificates(bundle)))


async def outside_of(store: Store, pool: Pool, access: ForgeAccess) -> Outside:
    """For the machines of a pool."""
    said = await store.settings.get()
    proxy = await store.catalog.proxy(pool.proxy_id) if pool.proxy_id else ProxyConfig()
    return Outside(proxy, merged(said.ca_bundle, access.endpoint.ca_bundle))


def _certificates(bundle: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(bundle.encode()) if bundle else []


def _pem(one: x509.Certificate) -> str:
    return one.public_bytes(Encoding.PEM).decode()
