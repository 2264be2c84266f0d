"""What becomes of a GARM here: the document that declares it, what is left out, and which secrets are missing. Pure."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from hostler.garm.gotemplate import NotTranslated, is_go, translated
from hostler.garm.model import (
    GarmCredentials,
    GarmEndpoint,
    GarmEntity,
    GarmFleet,
    GarmMaking,
    GarmPool,
    GarmProxy,
    GarmScaleSet,
    GarmTemplate,
)

Label = tuple[str, str]  # a document's table, and what an object of it is called


class There(msgspec.Struct, frozen=True):
    """What the coordinator has and takes."""

    keys: frozenset[str]  # that a document may hold, as table.key
    forges: frozenset[str]
    providers: frozenset[str]
    endpoints: Mapping[str, str]  # by base URL: the name
    objects: Mapping[Label, Mapping[str, Any]]  # whose secrets it knows, by what `known_as` says


class Missing(NamedTuple):
    """A secret of a new object that nobody has told."""

    table: str
    name: str
    key: str


class Answers(msgspec.Struct, frozen=True):
    """What people say when they are asked."""

    secrets: Mapping[Label, Mapping[str, Any]] = {}
    refused: Mapping[Label, str] = {}  # what the coordinator does not take, and why
    disabled: bool = False  # pools


class Translation(msgspec.Struct, frozen=True):
    document: Mapping[str, list[dict[str, Any]]]
    left_out: tuple[str, ...]
    missing: tuple[Missing, ...]

    def label(self, table: str, index: int) -> Label:
        """What the object at a place of the document is called."""
        return self._labels[table][index]

    @property
    def _labels(self) -> Mapping[str, list[Label]]:
        return {table: [(table, _called(table, one)) for one in rows] for table, rows in self.document.items()}


def translate(fleet: GarmFleet, there: There, answers: Answers) -> Translation:
    """Each object by the same name, after what it refers to; what refers to something left out is left out."""
    return _Translator(fleet, there, answers).translation()


class _Translator:
    def __init__(self, fleet: GarmFleet, there: There, answers: Answers) -> None:
        self._fleet = fleet
        self._there = there
        self._answers = answers
        self._document: dict[str, list[dict[str, Any]]] = {}
        self._left_out: list[str] = []
        self._missing: list[Missing] = []
        self._endpoints: dict[str, str] = {}  # GARM's names to ours, of what is taken over
        self._credentials: dict[tuple[str, str], str] = {}  # by forge and GARM's name
        self._entities: dict[str, dict[str, Any]] = {}  # by GARM's id: how pools say whose they are
        self._named: dict[str, dict[str, str]] = {"template": {}, "proxy": {}}  # GARM's names to ours, likewise

    def translation(self) -> Translation:
        for endpoint in self._fleet.endpoints:
            self._endpoint(endpoint)
        for secret in self._fleet.credentials:
            self._secret(secret)
        for entity in self._fleet.entities:
            self._entity(entity)
        for template in self._fleet.templates:
            self._template(template)
        for proxy in self._fleet.proxies:
            self._proxy(proxy)
        for pool in self._fleet.pools:
            self._pool(pool)
        for scale_set in self._fleet.scale_sets:
            self._scale_set(scale_set)
        return Translation(self._document, tuple(self._left_out), tuple(self._missing))

    def _endpoint(self, one: GarmEndpoint) -> None:
        base_url = one.base_url.rstrip("/")
        known = self._there.endpoints.get(base_url.lower())
        if known is not None:
            self._endpoints[one.name] = known
            return
        name = _name(one.name)
        values = {
            "name": name,
            "kind": one.forge,
            "base_url": base_url,
            "api_base_url": (one.api_base_url or base_url).rstrip("/"),
            "upload_base_url": one.upload_base_url.rstrip("/") if one.forge == "github" else "",
            "description": one.description,
            "ca_bundle": one.ca_bundle,
            "tools_metadata_url": one.tools_metadata_url if one.forge == "gitea" else "",
            "use_internal_tools_metadata": one.use_internal_tools_metadata and one.forge == "gitea",
        }
        reason = "" if one.forge in self._there.forges else f"no endpoint can be of {one.forge}"
        if self._add("endpoint", values, reason):
            self._endpoints[one.name] = name

    def _secret(self, one: GarmCredentials) -> None:
        name = _name(one.name)
        if name in self._credentials.values():
            name = f"{name}-{one.forge}"  # GARM lets each forge have one of that name
        endpoint = self._endpoints.get(one.endpoint)
        keys = ("app_id", "installation_id", "private_key") if one.auth == "app" else ("token",)
        values = {"name": name, "endpoint": endpoint, "description": one.description}
        known = self._known("credentials", values) or {}
        values |= self._told("credentials", name, {key: known.get(key, getattr(one, key)) for key in keys})
        if self._add("credentials", values, "" if endpoint else f"its endpoint {one.endpoint} is left out"):
            self._credentials[one.forge, one.name] = name
            self._ask("credentials", values, keys)

    def _entity(self, one: GarmEntity) -> None:
        endpoint = self._endpoints.get(one.endpoint)
        secret = self._credentials.get((one.forge, one.credentials))
        named: dict[str, Any] = {"owner": one.owner} if one.table == "repository" else {}
        named |= {} if one.table == "forge_instance" else {"name": one.name}
        values = {
            "endpoint": endpoint,
            **named,
            "credentials": secret,
            "balancer": one.balancer or "roundrobin",
        }
        called = _called(one.table, values)
        values |= self._told(one.table, called, {"webhook_secret": one.webhook_secret})
        reason = ""
        if endpoint is None:
            reason = f"its endpoint {one.endpoint} is left out"
        elif secret is None:
            reason = f"its credentials {one.credentials} are left out" if one.credentials else "it has no credentials"
        if self._add(one.table, values, reason):
            key: dict[str, Any] = {one.table: True if one.table == "forge_instance" else called}
            self._entities[one.id] = {"endpoint": endpoint, **key}
            self._ask(one.table, values, ("webhook_secret",))
            if one.agent_mode:
                self._leave_out(f"agent mode of {one.table} {called}", "GARM's agent is not served")

    def _template(self, one: GarmTemplate) -> None:
        values = {
            "name": _name(one.name),
            "description": one.description,
            "os_type": one.os_type,
            "forge": one.forge,
        }
        reason = ""
        try:
            values["data"] = translated(one.data) if is_go(one.data) else one.data
        except NotTranslated as error:
            if self._known("template", values):
                self._named["template"][one.name] = values["name"]
            reason = f"{error}: declare one of its name in our language, and import again for what names it"
        if self._add("template", values, reason):
            self._named["template"][one.name] = values["name"]

    def _proxy(self, one: GarmProxy) -> None:
        name = _name(one.name)
        values = {
            "name": name,
            "description": one.description,
            "http_proxy": one.http_proxy,
            "https_proxy": one.https_proxy,
            "no_proxy": one.no_proxy,
            "username": one.username,
        }
        values |= self._told("proxy", name, {"password": one.password})
        if self._add("proxy", values, ""):
            self._named["proxy"][one.name] = name
            self._ask("proxy", values, ("password",))

    def _pool(self, one: GarmPool) -> None:
        values = {"name": one.id, **self._making(one), "labels": list(one.tags), "priority": one.priority}
        self._add_making("pool", one, values)

    def _scale_set(self, one: GarmScaleSet) -> None:
        """Workflows name it, so its name is a label whatever it is called here."""
        labels = list(dict.fromkeys([one.name, *one.tags]))
        update = {"disable_update": True} if one.disable_update else {}
        self._add_making("scale_set", one, {"name": _name(one.name), **self._making(one), "labels": labels, **update})

    def _making(self, one: GarmMaking) -> dict[str, Any]:
        values = {
            **self._entities.get(one.entity_id, {}),
            "provider": one.provider,
            "image": one.image,
            "flavor": one.flavor,
            "max_runners": one.max_runners,
            "enabled": one.enabled and not self._answers.disabled,
            "arch": one.os_arch,
            "os_type": one.os_type,
            "runner_prefix": one.runner_prefix.lower() or "garm",  # as GARM does
            "runner_group": one.runner_group,
            "bootstrap_timeout_minutes": one.bootstrap_timeout_minutes,
            "min_idle_runners": one.min_idle_runners,
            "template": self._named["template"].get(one.template, ""),
            "proxy": self._named["proxy"].get(one.proxy, ""),
        }
        if one.extra_specs:
            values["extra_specs_json"] = msgspec.json.encode(one.extra_specs).decode()
        return values

    def _add_making(self, table: str, one: GarmMaking, values: dict[str, Any]) -> None:
        called = f"{table.replace('_', ' ')} {values['name']}"
        reason = ""
        if one.entity_id not in self._entities:
            reason = "whose it is is left out"
        elif one.provider not in self._there.providers:
            reason = f"the coordinator's file has no [[provider]] '{one.provider}'"
        for kind, name in (("template", one.template), ("proxy", one.proxy)):
            if name and name not in self._named[kind]:
                # Without them its machines would be others than people have asked for.
                reason = reason or f"its {kind} {name} is left out"
        if self._add(table, values, reason) and one.shell:
            self._leave_out(f"shell of {called}", "machines have none here")

    def _add(self, table: str, values: dict[str, Any], reason: str) -> bool:
        called = _called(table, values)
        label = (table, called)
        if not any(key.startswith(f"{table}.") for key in self._there.keys):
            reason = "nothing of that kind can be declared"
        unknown = [key for key, value in values.items() if value and f"{table}.{key}" not in self._there.keys]
        if unknown:
            reason = reason or f"{unknown[0]} cannot be declared of one"
        reason = reason or self._answers.refused.get(label, "")
        if reason:
            self._leave_out(f"{table.replace('_', ' ')} {called}", reason)
            return False
        said = {key: value for key, value in values.items() if value not in ("", None)}
        self._document.setdefault(table, []).append(said)
        return True

    def _told(self, table: str, called: str, read: Mapping[str, Any]) -> dict[str, Any]:
        said = self._answers.secrets.get((table, called), {})
        return {key: said.get(key, value) for key, value in read.items()}

    def _known(self, table: str, values: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return self._there.objects.get(known_as(table, values))

    def _ask(self, table: str, values: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        """For what is not told, where the coordinator does not know it already."""
        if self._known(table, values) is None:
            called = _called(table, values)
            self._missing += [Missing(table, called, key) for key in keys if values[key] is None]

    def _leave_out(self, what: str, reason: str) -> None:
        self._left_out.append(f"{what}: {reason}")


def known_as(table: str, declared: Mapping[str, Any]) -> Label:
    """What an object of a document is known by among those that are there."""
    called = _called(table, declared)
    return (table, called if table in _OF_NO_ENDPOINT else f"{declared['endpoint']} {called}".lower())


def _called(table: str, values: Mapping[str, Any]) -> str:
    if table == "repository":
        return f"{values['owner']}/{values['name']}"
    return str(values["endpoint"] if table == "forge_instance" else values["name"])


_OF_NO_ENDPOINT: Final = ("credentials", "template", "proxy")
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._-]+")


def _name(garms: str) -> str:
    """GARM takes any; ours begin with a letter or digit."""
    return _NOT_IN_NAMES.sub("-", garms).lstrip("._-")[:100] or "garm"
