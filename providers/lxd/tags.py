"""What an LXD instance says of itself in its `user.hostler.*` keys, so that no other record of it is needed.

Pure. The keys hold no secret: LXD keeps them in its database, and `lxc config show` prints them.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec

from hostler.network import NetworkAccess
from providers.contract import InstanceSpec, Phase

_PREFIX: Final = "user.hostler."
_PHASES: Final = (Phase.ACCEPTED, Phase.DISK, Phase.STARTED, Phase.STOPPED)


class Tags(msgspec.Struct, frozen=True):
    instance_id: str
    generation: int
    owner: str  # the directory of the provider that made it
    pool_id: str
    network: NetworkAccess
    runner_api: tuple[str, ...]  # where it must call, as the isolation's `runner_api` said when it was made
    phases: dict[Phase, datetime] = {}
    coordinator: tuple[str, ...] = ()  # addresses that the agent called then


def tags_for(
    spec: InstanceSpec, owner: str, runner_api: tuple[str, ...], coordinator: tuple[str, ...], accepted: datetime
) -> Tags:
    return Tags(
        instance_id=spec.instance_id,
        generation=spec.generation,
        owner=owner,
        pool_id=spec.pool_id,
        network=spec.network,
        runner_api=runner_api,
        coordinator=coordinator,
        phases={Phase.ACCEPTED: accepted},
    )


def written(tags: Tags) -> dict[str, str]:
    """As configuration keys."""
    return {
        f"{_PREFIX}id": tags.instance_id,
        f"{_PREFIX}generation": str(tags.generation),
        f"{_PREFIX}owner": tags.owner,
        f"{_PREFIX}pool": tags.pool_id,
        f"{_PREFIX}network": msgspec.json.encode(tags.network).decode(),
        f"{_PREFIX}runner_api": " ".join(tags.runner_api),
        f"{_PREFIX}coordinator": " ".join(tags.coordinator),
    } | written_phases(tags.phases)


def written_phases(phases: Mapping[Phase, datetime]) -> dict[str, str]:
    return {f"{_PREFIX}{phase.value}": at.isoformat() for phase, at in phases.items()}


def read(config: Mapping[str, str]) -> Tags | None:
    """None: not one of Hostler's, or made by hand to look like one."""
    instance_id, generation, owner = (config.get(f"{_PREFIX}{key}") for key in ("id", "generation", "owner"))
    if not instance_id or not owner or generation is None or not generation.isdecimal():
        return None
    try:
        network = msgspec.json.decode(config.get(f"{_PREFIX}network", "{}"), type=NetworkAccess)
        phases = {
            phase: datetime.fromisoformat(config[f"{_PREFIX}{phase.value}"])
            for phase in _PHASES
            if f"{_PREFIX}{phase.value}" in config
        }
    except ValueError:
        return None
    return Tags(
        instance_id=instance_id,
        generation=int(generation),
        owner=owner,
        pool_id=config.get(f"{_PREFIX}pool", ""),
        network=network,
        runner_api=tuple(config.get(f"{_PREFIX}runner_api", "").split()),
        coordinator=tuple(config.get(f"{_PREFIX}coordinator", "").split()),
        phases=phases,
    )
