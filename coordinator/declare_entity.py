"""Whose jobs are run, as it is declared: repositories, organizations, enterprises and whole forges."""

from collections.abc import Mapping
from typing import Final

from coordinator.declare_base import Declared, check_name
from coordinator.domain.fleet import Balancer, EntityKind, EntityName
from hostler import config


class EntityDeclaration(Declared, frozen=True, kw_only=True):
    """What entities of every kind have."""

    endpoint: str
    credentials: str
    webhook_secret: str | None = None  # None: as it is
    weight: float = 1.0
    quota: int | None = None
    priority: int = 0
    label_priorities: dict[str, int] = {}
    balancer: Balancer = Balancer.ROUNDROBIN

    @property
    def named(self) -> EntityName:
        raise NotImplementedError

    def __post_init__(self) -> None:
        config.check(0.01 <= self.weight <= 1000, "weight: must be 0.01 to 1000")
        config.check(self.quota is None or self.quota >= 0, "quota: must be 0 or more")
        priorities = [self.priority, *self.label_priorities.values()]
        config.check(all(-100 <= one <= 100 for one in priorities), "priority: must be -100 to 100, also of labels")
        long_enough = self.webhook_secret is None or len(self.webhook_secret) >= 16
        config.check(long_enough, "webhook_secret: must have at least 16 characters")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.named.full})"


class RepositoryDeclaration(EntityDeclaration, frozen=True, kw_only=True):
    owner: str
    name: str

    @property
    def named(self) -> EntityName:
        return EntityName(EntityKind.REPOSITORY, self.owner, self.name)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("owner", self.owner)
        check_name("name", self.name)


class OrganizationDeclaration(EntityDeclaration, frozen=True, kw_only=True):
    name: str

    @property
    def named(self) -> EntityName:
        return EntityName(EntityKind.ORGANIZATION, self.name)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("name", self.name)


class EnterpriseDeclaration(EntityDeclaration, frozen=True, kw_only=True):
    name: str

    @property
    def named(self) -> EntityName:
        return EntityName(EntityKind.ENTERPRISE, self.name)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("name", self.name)


class ForgeInstanceDeclaration(EntityDeclaration, frozen=True, kw_only=True):
    """All of a Gitea; each endpoint has one at most."""

    @property
    def named(self) -> EntityName:
        return EntityName(EntityKind.INSTANCE, self.endpoint)


BY_KIND: Final[Mapping[EntityKind, type[EntityDeclaration]]] = {
    EntityKind.REPOSITORY: RepositoryDeclaration,
    EntityKind.ORGANIZATION: OrganizationDeclaration,
    EntityKind.ENTERPRISE: EnterpriseDeclaration,
    EntityKind.INSTANCE: ForgeInstanceDeclaration,
}


def keys_of(named: EntityName) -> dict[str, str]:
    """Those keys of its declaration that name it."""
    match named.kind:
        case EntityKind.REPOSITORY:
            return {"owner": named.owner, "name": named.name}
        case EntityKind.INSTANCE:
            return {"endpoint": named.owner}
    return {"name": named.owner}


class OfEntity(Declared, frozen=True, kw_only=True):
    """What pools and scale sets say of whose they are: one of these, and the endpoint."""

    endpoint: str
    repository: str = ""  # owner/name
    organization: str = ""
    enterprise: str = ""
    forge_instance: bool = False  # all of the endpoint

    @property
    def owner(self) -> EntityName:
        if self.repository:
            owner, _, name = self.repository.partition("/")
            return EntityName(EntityKind.REPOSITORY, owner, name)
        if self.organization:
            return EntityName(EntityKind.ORGANIZATION, self.organization)
        if self.enterprise:
            return EntityName(EntityKind.ENTERPRISE, self.enterprise)
        return EntityName(EntityKind.INSTANCE, self.endpoint)

    def __post_init__(self) -> None:
        said = [self.repository, self.organization, self.enterprise, self.forge_instance]
        config.check(
            sum(map(bool, said)) == 1,
            "repository, organization, enterprise, forge_instance: one of them is needed, and one alone",
        )
        ok = not self.repository or self.repository.count("/") == 1
        config.check(ok, f"repository: '{self.repository}' is not owner/name")


def owner_keys(named: EntityName) -> dict[str, object]:
    """Those keys of a pool's or scale set's declaration that say whose it is."""
    match named.kind:
        case EntityKind.REPOSITORY:
            return {"repository": named.full}
        case EntityKind.ORGANIZATION:
            return {"organization": named.owner}
        case EntityKind.ENTERPRISE:
            return {"enterprise": named.owner}
        case EntityKind.INSTANCE:
            return {"forge_instance": True}
