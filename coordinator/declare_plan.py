"""What applying a document would change: worked out from the document and what is declared already. Pure."""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from coordinator.accounts.chain import MASK, masked
from coordinator.declare import (
    CredentialsDeclaration,
    Declaration,
    EndpointDeclaration,
    EntityDeclaration,
    FlavorDeclaration,
    ImageDeclaration,
    PoolDeclaration,
    ProxyDeclaration,
    ScaleSetDeclaration,
    TemplateDeclaration,
)
from coordinator.declare_base import SECRET_KEYS, TEXT_KEY, Refused
from coordinator.declare_pool import Making
from coordinator.declare_unserved import unserved
from coordinator.domain.labels import labels

AnyDeclared = (
    EndpointDeclaration
    | CredentialsDeclaration
    | FlavorDeclaration
    | ImageDeclaration
    | EntityDeclaration
    | TemplateDeclaration
    | ProxyDeclaration
    | PoolDeclaration
    | ScaleSetDeclaration
)
Declarations = Mapping[str, Mapping[str, AnyDeclared]]  # what is there: by kind, then by its row's id
Identity = tuple[str, ...]
T = TypeVar("T", bound=AnyDeclared)


class DeclaredTwice(Refused):
    """A document says two things of one object."""

    code = "declared_twice"


class Action(StrEnum):
    CREATE = "create"
    CHANGE = "change"
    REMOVE = "remove"
    KEEP = "keep"


class Difference(msgspec.Struct, frozen=True):
    """Of one key, as JSON with secrets masked; empty where there is none."""

    key: str
    before: str
    after: str


class Step(msgspec.Struct, frozen=True):
    action: Action
    kind: str
    name: str  # what people call it
    declared: AnyDeclared  # as it is to be; of one that is removed: as it was
    row_id: str = ""  # of one that is there
    index: int = 0  # among those of its table of the document, from 0
    differences: tuple[Difference, ...] = ()

    @property
    def line(self) -> str:
        """What was done, once it is."""
        called = self.kind.replace("_", " ")
        if self.action is Action.CHANGE:
            return f"{called} {self.name}: updated ({', '.join(one.key for one in self.differences)})"
        done = {Action.CREATE: "created", Action.REMOVE: "removed", Action.KEEP: "unchanged"}
        return f"{called} {self.name}: {done[self.action]}"


class Plan(msgspec.Struct, frozen=True):
    """In the order in which it is carried out."""

    steps: tuple[Step, ...]
    unserved: tuple[str, ...] = ()  # entities that get no runners, and why

    @property
    def changing(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.action is not Action.KEEP)

    @property
    def lines(self) -> list[str]:
        return [step.line for step in self.changing]


class Kind(NamedTuple):
    """One table of the document."""

    identity: tuple[str, ...]  # the keys that say which object is meant
    normal: Callable[[Any], Any]  # the same, as it is read from the database
    called: tuple[str, ...] = ("name",)
    folded: frozenset[str] = frozenset()  # of the identity, in which forges do not regard case

    def identify(self, declared: AnyDeclared) -> Identity:
        values = ((key, getattr(declared, key)) for key in self.identity)
        return tuple(str(value).lower() if key in self.folded else str(value) for key, value in values)

    def call(self, declared: AnyDeclared) -> str:
        return "/".join(getattr(declared, key) for key in self.called)


def plan(there: Declarations, wanted: Declaration, *, prune: bool) -> Plan:
    """What to create and change, each after what it refers to; then, where asked for, what to remove, in reverse.

    A secret that is left out stays as it is.

    Raises:
        DeclaredTwice: of one object.
    """
    forward: list[Step] = []
    removals: list[list[Step]] = []
    for name, kind in KINDS.items():
        known = {kind.identify(old): (row_id, old) for row_id, old in there.get(name, {}).items()}
        declared = _once(name, kind, getattr(wanted, name))
        forward += [
            _step(name, kind, index, one, *known.get(key, ("", None)))
            for index, (key, one) in enumerate(declared.items())
        ]
        gone = [known[key] for key in sorted(known.keys() - declared.keys())]
        removals.append([Step(Action.REMOVE, name, kind.call(old), old, row_id) for row_id, old in gone])
    backward = [step for steps in reversed(removals) for step in steps] if prune else []
    return Plan((*forward, *backward), tuple(_unserved(there, forward)))


def secrets_said(wanted: Declaration) -> frozenset[tuple[str, Identity]]:
    """Of which objects a document gives a secret: table and identity. Those of others need not be known to plan."""
    return frozenset(
        (name, kind.identify(one))
        for name, kind in KINDS.items()
        for one in getattr(wanted, name)
        if any(getattr(one, key, None) is not None for key in SECRET_KEYS)
    )


def _unserved(there: Declarations, steps: Iterable[Step]) -> list[str]:
    declared = [*(one for objects in there.values() for one in objects.values()), *(step.declared for step in steps)]
    return unserved(
        [one for one in declared if isinstance(one, EndpointDeclaration)],
        [one for one in declared if isinstance(one, CredentialsDeclaration)],
        [step.declared for step in steps if isinstance(step.declared, EntityDeclaration)],
    )


def _once(name: str, kind: Kind, declared: Iterable[AnyDeclared]) -> dict[Identity, AnyDeclared]:
    found: dict[Identity, AnyDeclared] = {}
    for index, one in enumerate(declared):
        key = kind.identify(one)
        if key in found:
            twice = DeclaredTwice(f"{name} {kind.call(one)} is declared twice", hint="keep one of the tables")
            twice.place = f"{name}[{index}]"
            raise twice
        found[key] = one
    return found


def _step(name: str, kind: Kind, index: int, wanted: AnyDeclared, row_id: str, old: AnyDeclared | None) -> Step:
    new = kind.normal(wanted)
    if old is None:
        return Step(Action.CREATE, name, kind.call(wanted), wanted, differences=_all(new, kind), index=index)
    differences = tuple(_differences(kind.normal(old), new, kind))
    action = Action.CHANGE if differences else Action.KEEP
    return Step(action, name, kind.call(old), wanted, row_id, differences=differences, index=index)


def _all(new: AnyDeclared, kind: Kind) -> tuple[Difference, ...]:
    """What is said of a new one, besides what holds anyway."""
    return tuple(
        Difference(field.name, "", _shown(field.name, getattr(new, field.name)))
        for field in msgspec.structs.fields(new)
        if field.name not in kind.identity and getattr(new, field.name) != _default(field)
    )


def _default(field: msgspec.structs.FieldInfo) -> object:
    return field.default_factory() if callable(field.default_factory) else field.default


def _differences(old: AnyDeclared, new: AnyDeclared, kind: Kind) -> Iterable[Difference]:
    for key in new.__struct_fields__:
        before, after = getattr(old, key), getattr(new, key)
        stays = key in SECRET_KEYS and after is None
        if key not in kind.identity and before != after and not stays:
            yield Difference(key, _shown(key, before), _shown(key, after))


def _shown(key: str, value: object) -> str:
    if value is None:
        return ""
    if key in SECRET_KEYS:
        shown: object = MASK
    else:
        shown = _summary(str(value)) if key == TEXT_KEY else masked(value)
    return msgspec.json.encode(shown).decode()


def _summary(text: str) -> str:
    """Of a script, which may hold what only those may see who may read it."""
    return f"{len(text.splitlines())} lines, sha256 {sha256(text.encode()).hexdigest()[:12]}"


def _endpoint(one: EndpointDeclaration) -> EndpointDeclaration:
    return msgspec.structs.replace(one, registrations_per_minute=one.registration_limit)


def _image(one: ImageDeclaration) -> ImageDeclaration:
    return msgspec.structs.replace(one, sha256=one.digest, format=one.disk_format, compression=one.packed_by)


def _entity(one: EntityDeclaration) -> EntityDeclaration:
    folded = {label.casefold(): one.label_priorities[label] for label in sorted(one.label_priorities)}
    return msgspec.structs.replace(one, label_priorities=folded)


def _made(one: Making) -> Making:
    return msgspec.structs.replace(one, labels=sorted(labels(one.labels)))


def _same(one: T) -> T:
    return one


_OWNERS: Final = ("repository", "organization", "enterprise", "forge_instance")
# The tables of a document, each after those that it refers to.
KINDS: Final[Mapping[str, Kind]] = {
    "endpoint": Kind(("name",), _endpoint),
    "credentials": Kind(("name",), _same),
    "flavor": Kind(("name",), _same),
    "image": Kind(("name", "arch"), _image, ("name", "arch")),
    "template": Kind(("name",), _same),
    "proxy": Kind(("name",), _same),
    "repository": Kind(("endpoint", "owner", "name"), _entity, ("owner", "name"), frozenset({"owner", "name"})),
    "organization": Kind(("endpoint", "name"), _entity, folded=frozenset({"name"})),
    "enterprise": Kind(("endpoint", "name"), _entity, folded=frozenset({"name"})),
    "forge_instance": Kind(("endpoint",), _entity, ("endpoint",)),
    "pool": Kind(("endpoint", *_OWNERS, "name"), _made, folded=frozenset(_OWNERS)),
    "scale_set": Kind(("endpoint", *_OWNERS, "name"), _made, folded=frozenset(_OWNERS)),
}
