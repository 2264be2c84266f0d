"""Which rows a transaction changed: noted where rows are written, told after the commit."""

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.domain.job import Job

_KEY = "hostler.changes"


class Changes(msgspec.Struct):
    """Ids of rows that a planner must look at again."""

    arrived: dict[str, Job] = msgspec.field(default_factory=dict)  # new ones, as they are: nobody need read them
    jobs: set[str] = msgspec.field(default_factory=set)
    instances: set[str] = msgspec.field(default_factory=set)
    hosts: set[str] = msgspec.field(default_factory=set)
    configured: set[str] = msgspec.field(default_factory=set)  # instances whose guests may have their configuration
    revoked: set[str] = msgspec.field(default_factory=set)  # enrolments whose certificates open nothing any more
    declared: set[str] = msgspec.field(default_factory=set)  # for who watches; see `said`
    catalog: bool = False  # entities, pools or flavors
    everything: bool = False  # it is not known which

    def __bool__(self) -> bool:
        return bool(self.to_plan or self.configured or self.revoked or self.declared)

    @property
    def to_plan(self) -> bool:
        """Whether a planner must look at anything again."""
        return bool(self.arrived or self.to_read or self.everything)

    @property
    def to_read(self) -> bool:
        """Whether rows that are named here must be read to know what they hold."""
        return bool(self.jobs or self.instances or self.hosts or self.catalog)

    def take_in(self, other: "Changes") -> None:
        self.arrived |= other.arrived
        self.jobs |= other.jobs
        self.instances |= other.instances
        self.hosts |= other.hosts
        self.configured |= other.configured
        self.revoked |= other.revoked
        self.declared |= other.declared
        self.catalog |= other.catalog
        self.everything |= other.everything


def said(kind: str, what: str, key: object) -> str:
    """For `Changes.declared`: one object that people have created, updated or removed.

    Args:
        key: its row's id; of one that is removed what clients know it by.
    """
    return f"{kind}/{what}/{key}"


def begin(connection: AsyncConnection | sa.Connection) -> Changes:
    """Start to note, for a new transaction on the connection."""
    connection.info[_KEY] = changes = Changes()
    return changes


def of(connection: AsyncConnection | sa.Connection) -> Changes:
    """Where to note what this transaction changes."""
    changes: Changes = connection.info[_KEY]
    return changes
