"""Which of what may be declared a forge's client can use. Pure."""

from coordinator.domain.fleet import AuthKind, Endpoint, Entity, EntityKind, ForgeKind


def unusable(endpoint: Endpoint, entity: Entity, auth: AuthKind) -> str:
    """Why no runner can be registered for an entity, for people; empty when it can be tried."""
    if endpoint.kind is not ForgeKind.GITHUB:
        return f"runners cannot be registered at {endpoint.kind}: GitHub alone is spoken"
    if entity.kind is not EntityKind.REPOSITORY:
        return f"runners of {entity.kind.word}s cannot be registered: declare the repositories, and pools for them"
    if auth is not AuthKind.TOKEN:
        return "GitHub Apps cannot be used: give it credentials with a token"
    if endpoint.ca_bundle:
        return "the endpoint's CA bundle cannot be used: let the coordinator's own system trust the CA"
    return ""
