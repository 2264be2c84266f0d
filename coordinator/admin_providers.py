"""What the admin client asks about provider executables, which are on this machine."""

from collections.abc import Mapping

import msgspec

from coordinator.store.store import Store
from hostler.errors import HostlerError
from protos.hostler.v1 import admin_pb2 as pb
from providers.exec.check import PoolSpecs, check
from providers.exec.provider import ExecProvider


class ProviderUnknown(HostlerError):
    """No [[provider]] of this coordinator has that name."""

    code = "provider_unknown"
    hint = "the name is that of a [[provider]] table in the coordinator's configuration"


class ProviderAdmin:
    def __init__(self, store: Store, clouds: Mapping[str, ExecProvider]) -> None:
        self._store = store
        self._clouds = clouds

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._clouds)

    async def check(self, name: str) -> pb.CheckProviderResponse:
        """
        Raises:
            ProviderUnknown: it is none of this coordinator's.
        """
        if name not in self._clouds:
            configured = ", ".join(sorted(self._clouds)) or "none"
            raise ProviderUnknown(f"there is no provider '{name}'; configured here: {configured}")
        pools = [
            PoolSpecs(pool.id, pool.name, msgspec.json.decode(pool.extra_specs, type=dict[str, object]))
            for pool in await self._store.catalog.pools()
            if pool.provider == name
        ]
        found = await check(self._clouds[name].settings, self._store.controller_id, pools)
        return pb.CheckProviderResponse(
            findings=[
                pb.ProviderFinding(subject=one.subject, verdict=one.verdict.value, detail=one.detail) for one in found
            ]
        )
