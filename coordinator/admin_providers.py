"""What the admin client asks about provider executables, which are on this machine."""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec

from coordinator.domain.circuit import Circuit
from coordinator.engine.circuits import Circuits
from coordinator.store.store import Store
from hostler.errors import HostlerError
from protos.hostler.v1 import admin_pb2 as pb
from providers.exec.check import PoolSpecs, check
from providers.exec.provider import ExecProvider
from providers.exec.settings import ExecSettings


class ProviderUnknown(HostlerError):
    """No [[provider]] of this coordinator has that name."""

    code = "provider_unknown"
    hint = "the name is that of a [[provider]] table in the coordinator's configuration"


class ProviderAdmin:
    def __init__(
        self, store: Store, clouds: Mapping[str, ExecProvider], circuits: Circuits, clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._clouds = clouds
        self._circuits = circuits
        self._clock = clock

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._clouds)

    async def all(self) -> pb.ListProvidersResponse:
        pools = await self._store.catalog.pools()
        used = Counter(instance.provider for instance in await self._store.instances.alive())
        now = self._clock()
        return pb.ListProvidersResponse(
            providers=[
                _provider(
                    cloud.settings,
                    self._circuits.of(name),
                    now,
                    pools=[pool.name for pool in pools if pool.provider == name],
                    instances=used[name],
                )
                for name, cloud in sorted(self._clouds.items())
            ]
        )

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


def _provider(
    settings: ExecSettings, circuit: Circuit, now: datetime, *, pools: list[str], instances: int
) -> pb.Provider:
    told = pb.Provider(
        name=settings.name,
        executable=settings.executable,
        interface_version=settings.interface_version,
        circuit=circuit.state(now).value,
        failures=circuit.failures,
        fault=circuit.fault,
        pools=pools,
        instances=instances,
    )
    if circuit.open_until is not None:
        told.open_until.FromDatetime(circuit.open_until)
    return told
