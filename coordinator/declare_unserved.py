"""Which entities of a plan may be declared, and get no runners by any forge client that there is. Pure."""

from collections.abc import Iterable

from coordinator.declare import CredentialsDeclaration, EndpointDeclaration, EntityDeclaration
from coordinator.domain.fleet import Endpoint, Entity
from coordinator.forges.usable import unusable


def unserved(
    endpoints: Iterable[EndpointDeclaration],
    secrets: Iterable[CredentialsDeclaration],
    entities: Iterable[EntityDeclaration],
) -> list[str]:
    """A line for each, with the reason.

    Args:
        endpoints: all that the entities may name; of two with one name, the later.
        secrets: likewise.
    """
    endpoint = {one.name: one for one in endpoints}
    secret = {one.name: one for one in secrets}
    found: list[str] = []
    for entity in entities:
        if entity.endpoint in endpoint and entity.credentials in secret:
            reason = unusable(_endpoint(endpoint[entity.endpoint]), _entity(entity), secret[entity.credentials].auth)
            found += [f"{entity.named.kind.word} {entity.named.full}: {reason}"] if reason else []
    return found


def _endpoint(one: EndpointDeclaration) -> Endpoint:
    return Endpoint("", one.name, one.kind, one.base_url, one.api_base_url, one.ca_bundle)


def _entity(one: EntityDeclaration) -> Entity:
    return Entity("", "", one.named.kind, one.named.owner, one.named.name, "")
