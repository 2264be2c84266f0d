"""Whose machines are beside each other on the hosts, and which pools' may not be beside strangers."""

from collections import Counter, defaultdict

from coordinator.domain.fleet import Pool


class Neighbours:
    def __init__(self) -> None:
        self.shy: set[str] = set()  # pools that do not share hosts
        self._on: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)  # host to entities and pools

    def put_pool(self, pool: Pool) -> None:
        if pool.share_hosts:
            self.shy.discard(pool.id)
        else:
            self.shy.add(pool.id)

    def count(self, host: str, entity_id: str, pool_id: str, count: int) -> None:
        """Count a machine on the host; with -1, not any more."""
        beside, whose = self._on[host], (entity_id, pool_id)
        beside[whose] += count
        if not beside[whose]:
            del beside[whose]

    def strange(self, host: str, pool: Pool) -> bool:
        """Whether the host has machines of another entity that this pool's may not be beside: either may mind."""
        if pool.share_hosts and not self.shy:
            return False
        return any(self.mind(pool, entity_id, other) for entity_id, other in self._on[host])

    def mind(self, pool: Pool, entity_id: str, other: str) -> bool:
        """Whether the pool's machines may not be beside those of another entity and pool."""
        return entity_id != pool.entity_id and not (pool.share_hosts and other not in self.shy)
