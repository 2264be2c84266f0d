"""Moving a GARM's fleet to the coordinator: what it takes is found out by dry runs, for its rules are its own."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import grpc
import msgspec

from hostler import toml
from hostler.cli.client import TIMEOUT_SECONDS
from hostler.cli.declaring import APPLY_SECONDS
from hostler.garm.model import GarmFleet
from hostler.garm.translate import Answers, Label, Missing, There, Translation, known_as, translate
from protos.hostler.v1.admin_pb2 import ApplyRequest, ApplyResponse, ExportRequest, ExportResponse
from protos.hostler.v1.admin_pb2_grpc import AdminStub

_PLACE: Final = re.compile(r"key '(?P<table>[a-z_]+)\[(?P<index>\d+)\][^']*': (?P<reason>.*)", re.DOTALL)


class Settled(NamedTuple):
    """What the coordinator takes, and what it would do."""

    document: str
    left_out: tuple[str, ...]
    plan: ApplyResponse


class Moving:
    def __init__(self, admin: AdminStub, fleet: GarmFleet, *, disabled: bool) -> None:
        self._admin = admin
        self._fleet = fleet
        self._there = there(admin.Export(ExportRequest(), timeout=TIMEOUT_SECONDS))
        self._answers = Answers(disabled=disabled)

    def missing(self, secrets: Mapping[Label, Mapping[str, Any]]) -> tuple[Missing, ...]:
        return self._translated(secrets).missing

    def settle(self, secrets: Mapping[Label, Mapping[str, Any]]) -> Settled:
        """Leave out what the coordinator refuses by its place in the document, until it takes the rest.

        Raises:
            grpc.RpcError: it refuses all, or does not answer.
        """
        while True:
            made = self._translated(secrets)
            text = toml.written(made.document)
            try:
                answer = self._admin.Apply(ApplyRequest(document=text, dry_run=True), timeout=APPLY_SECONDS)
            except grpc.RpcError as error:
                refused = refusal(error, made)
                if refused is None:
                    raise
                self._answers = msgspec.structs.replace(self._answers, refused={**self._answers.refused, **refused})
                continue
            return Settled(text, made.left_out, answer)

    def apply(self, settled: Settled) -> Iterable[str]:
        request = ApplyRequest(document=settled.document)
        return self._admin.Apply(request, timeout=APPLY_SECONDS).changes

    def _translated(self, secrets: Mapping[Label, Mapping[str, Any]]) -> Translation:
        return translate(self._fleet, self._there, msgspec.structs.replace(self._answers, secrets=secrets))


def there(exported: ExportResponse) -> There:
    declared = tomllib.loads(exported.document)
    return There(
        keys=frozenset(exported.keys),
        forges=frozenset(exported.forges),
        providers=frozenset(exported.providers),
        endpoints={_base_url(one): one["name"] for one in declared.get("endpoint", ())},
        objects={known_as(table, one): one for table in _KNOWN for one in declared.get(table, ())},
    )


_KNOWN: Final = ("credentials", "template", "proxy", "repository", "organization", "enterprise", "forge_instance")


def _base_url(endpoint: Mapping[str, Any]) -> str:
    return str(endpoint.get("base_url", "https://github.com")).lower()  # as a document leaves it out


def refusal(error: grpc.RpcError, made: Translation) -> dict[Label, str] | None:
    """Which object of the document it speaks of, and what is wrong with it."""
    details: object = getattr(error, "details", str)()  # the library's own type does not say that it has them
    found = _PLACE.search(str(details))
    if found is None or found["table"] not in made.document:
        return None
    return {made.label(found["table"], int(found["index"])): found["reason"]}
