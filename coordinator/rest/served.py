"""The kinds of entities, where each is served, and what its operations are called."""

from typing import Any, Final, NamedTuple

from coordinator.domain.fleet import EntityKind
from coordinator.rest.params_entities import (
    CreateEnterpriseParams,
    CreateForgeInstanceParams,
    CreateOrgParams,
    CreateRepoParams,
)


class Served(NamedTuple):
    """One kind: where, and what its operations are called after their verbs."""

    kind: EntityKind
    path: str
    one: str
    many: str
    create: Any  # type of the body

    @property
    def of_one(self) -> str:
        return f"{self.path}/{{entity_id:str}}"


SERVED: Final = (
    Served(EntityKind.REPOSITORY, "/repositories", "Repo", "Repos", CreateRepoParams),
    Served(EntityKind.ORGANIZATION, "/organizations", "Org", "Orgs", CreateOrgParams),
    Served(EntityKind.ENTERPRISE, "/enterprises", "Enterprise", "Enterprises", CreateEnterpriseParams),
    Served(EntityKind.INSTANCE, "/forge-instances", "ForgeInstance", "ForgeInstances", CreateForgeInstanceParams),
)
