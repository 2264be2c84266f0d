"""Which of an entity's machines is the newest: pools that take turns go on from its pool."""

from collections import defaultdict
from collections.abc import Mapping
from heapq import heapify, heappop, heappush

from coordinator.domain.instance import Instance

_SLACK = 64


class Newest:
    """Args:
    instances: all that there are, by id; whoever is not there any more is forgotten when it is met.
    """

    def __init__(self, instances: Mapping[str, Instance]) -> None:
        self._instances = instances
        self._made: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)  # by entity, heaps, newest first

    def add(self, instance: Instance, count: int) -> None:
        """`count`: how many the entity has."""
        made = self._made[instance.entity_id]
        if len(made) > 2 * count + _SLACK:
            made[:] = [entry for entry in made if self._is_of(entry, instance.entity_id)]
            heapify(made)
        heappush(made, (-instance.created_at.timestamp(), instance.id))

    def pool_of(self, entity_id: str) -> str | None:
        """The pool of the entity's newest instance that is still there."""
        made = self._made[entity_id]
        while made and not self._is_of(made[0], entity_id):
            heappop(made)
        return self._instances[made[0][1]].pool_id if made else None

    def _is_of(self, made: tuple[float, str], entity_id: str) -> bool:
        instance = self._instances.get(made[1])
        return instance is not None and (-instance.created_at.timestamp(), instance.entity_id) == (made[0], entity_id)
