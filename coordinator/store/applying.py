"""What is declared, object by object: which rules it must keep, and which columns it becomes."""

from typing import Any, Final

import msgspec
import sqlalchemy as sa

from coordinator.declare import (
    CredentialsDeclaration,
    EndpointDeclaration,
    EntityDeclaration,
    FlavorDeclaration,
)
from coordinator.declare_entity import OfEntity
from coordinator.declare_image import ImageDeclaration
from coordinator.declare_plan import AnyDeclared
from coordinator.declare_pool import Making, PoolDeclaration, ScaleSetDeclaration
from coordinator.declare_text import ProxyDeclaration, TemplateDeclaration
from coordinator.domain.fleet import AuthKind, EntityKind, EntityName, ForgeKind
from coordinator.domain.labels import labels
from coordinator.store import choosing
from coordinator.store.migrate import only_one_at_a_time
from coordinator.store.schema import (
    credentials,
    endpoints,
    entities,
    flavors,
    images,
    pools,
    proxies,
    scale_sets,
    templates,
)
from coordinator.store.writing import AlreadyThere, Clash, Writing
from coordinator.templates.system import FIRST_OWN, SYSTEM


class Application:
    """One application of declarations within one transaction.

    Methods that take a `row_id` change the object of that id, its name as well, and return its id.
    """

    def __init__(self, writing: Writing, known_providers: frozenset[str]) -> None:
        self._writing = writing
        self._connection = writing.connection
        self._known_providers = known_providers

    async def one(self, declared: AnyDeclared, row_id: str = "") -> str:
        """Create or update one object; returns its row's id.

        Raises:
            UnknownReference, Clash, AlreadyThere: it cannot be.
        """
        match declared:
            case EndpointDeclaration():
                made = self.endpoint(declared, row_id)
            case CredentialsDeclaration():
                made = self.credentials(declared, row_id)
            case EntityDeclaration():
                made = self.entity(declared, row_id)
            case FlavorDeclaration():
                made = self._flavor_and_its_pools(declared)
            case ImageDeclaration():
                made = self._image(declared)
            case TemplateDeclaration():
                made = self.template(declared, row_id)
            case ProxyDeclaration():
                made = self.proxy(declared, row_id)
            case PoolDeclaration():
                made = self.pool(declared, row_id)
            case ScaleSetDeclaration():
                made = self.scale_set(declared, row_id)
        return await made

    async def endpoint(self, endpoint: EndpointDeclaration, row_id: str = "") -> str:
        await self._alone(endpoint)
        values: dict[str, Any] = {
            "kind": endpoint.kind,
            "base_url": endpoint.base_url,
            "api_base_url": endpoint.api_base_url,
            "registrations_per_minute": endpoint.registration_limit,
            "upload_base_url": endpoint.upload_base_url,
            "description": endpoint.description,
            "tools_metadata_url": endpoint.tools_metadata_url,
            "use_internal_tools_metadata": endpoint.use_internal_tools_metadata,
        }
        key, sealed = {"name": endpoint.name}, {"ca_bundle": endpoint.ca_bundle}
        row_id, _ = await self._writing.upsert("endpoint", endpoints, key, values, sealed, row_id=row_id)
        return row_id

    async def credentials(self, secret: CredentialsDeclaration, row_id: str = "") -> str:
        key = {"name": secret.name}
        endpoint_id = await self._endpoint(secret.endpoint)
        await self._stays(secret.name, endpoint_id)
        if secret.auth is AuthKind.APP:
            await self._is_of(endpoint_id, ForgeKind.GITHUB, f"credentials '{secret.name}': Apps")
        values: dict[str, Any] = {
            "endpoint_id": endpoint_id,
            "description": secret.description,
            "auth": secret.auth,
            "app_id": secret.app_id,
            "installation_id": secret.installation_id,
        }
        token = {} if secret.secret is None else {"token": secret.secret}
        which = credentials.c.id == row_id if row_id else credentials.c.name == secret.name
        row = (await self._connection.execute(sa.select(credentials.c.auth).where(which))).first()
        if not token and (row is None or row.auth != secret.auth):
            raise _not_given(f"credentials '{secret.name}'", _SECRET_OF[secret.auth])
        values |= await self._number(credentials, which)
        row_id, _ = await self._writing.upsert("credentials", credentials, key, values, token, row_id=row_id)
        return row_id

    async def _number(self, table: sa.Table, which: sa.ColumnElement[bool], first: int = 1) -> dict[str, int]:
        """For a new one, the next of those that its kind is known by."""
        if await self._connection.scalar(sa.select(table.c.id).where(which)) is not None:
            return {}
        await only_one_at_a_time(self._connection)
        highest = await self._connection.scalar(sa.select(sa.func.max(table.c.number)))
        return {"number": max((highest or 0) + 1, first)}

    async def entity(self, entity: EntityDeclaration, row_id: str = "") -> str:
        endpoint_id = await self._endpoint(entity.endpoint)
        kind = entity.named.kind
        if kind in _ONLY_AT:
            await self._is_of(endpoint_id, _ONLY_AT[kind], f"{kind.word}s")
        owner, name, new = await self._spelled(endpoint_id, entity.named)
        if new and not row_id and entity.webhook_secret is None:
            raise _not_given(f"{kind.word} '{entity.named.full}'", "webhook_secret")
        key = {"endpoint_id": endpoint_id, "kind": kind.value, "owner": owner, "name": name}
        values = {
            "credentials_id": await self._credentials(entity.credentials, endpoint_id),
            "weight": entity.weight,
            "quota": entity.quota,
            "priority": entity.priority,
            "label_priorities": _priorities(entity.label_priorities),
            "balancer": entity.balancer.value,
        }
        secret = {} if entity.webhook_secret is None else {"webhook_secret": entity.webhook_secret}
        row_id, _ = await self._writing.upsert(kind.word, entities, key, values, secret, row_id=row_id)
        return row_id

    async def _flavor_and_its_pools(self, flavor: FlavorDeclaration) -> str:
        resources = msgspec.structs.asdict(flavor.resources)
        row_id, changed = await self._writing.upsert("flavor", flavors, {"name": flavor.name}, resources)
        if changed:
            ours = pools.c.provider.not_in(self._known_providers)  # a cloud's flavors are its own
            await self._writing.date((pools.c.flavor == flavor.name) & ours)
            theirs = scale_sets.c.provider.not_in(self._known_providers)
            await self._writing.date((scale_sets.c.flavor == flavor.name) & theirs, scale_sets)
        return row_id

    async def _image(self, image: ImageDeclaration) -> str:
        values = {
            "url": image.url,
            "sha256": image.digest,
            "format": image.disk_format.value,
            "compression": image.packed_by.value,
        }
        key = {"name": image.name, "arch": image.arch}
        row_id, changed = await self._writing.upsert("image", images, key, values)
        if set(changed) - {"url"}:
            for table in (pools, scale_sets):
                await self._writing.date((table.c.image == image.name) & (table.c.arch == image.arch), table)
        return row_id

    async def pool(self, pool: PoolDeclaration, row_id: str = "") -> str:
        if pool.provider in self._known_providers and pool.says_network:
            raise Clash(
                f"pool '{pool.name}': '{pool.provider}' keeps no network_policy and no network_allow",
                hint="leave them out, and say it in the provider's own terms, in extra_specs",
            )
        await self._check_flavor(pool)
        key = {"entity_id": await self._entity(pool), "name": pool.name}
        values = _made_of(pool) | {
            "template_id": await choosing.template_id(self._connection, pool, key["entity_id"]),
            "proxy_id": await choosing.proxy_id(self._connection, pool),
            "priority": pool.priority,
            "placement": pool.placement.value,
            "share_hosts": pool.share_hosts,
            "network_policy": pool.network_policy.value,
            "network_allow": msgspec.json.encode(pool.network_allow).decode(),
        }
        row_id, changed = await self._writing.upsert("pool", pools, key, values, row_id=row_id)
        if _MAKING & set(changed):
            await self._writing.date(pools.c.id == row_id)
        return row_id

    async def scale_set(self, one: ScaleSetDeclaration, row_id: str = "") -> str:
        await self._check_flavor(one)
        endpoint_id = await self._endpoint(one.endpoint)
        await self._is_of(endpoint_id, ForgeKind.GITHUB, f"scale set '{one.name}': scale sets")
        key = {"entity_id": await self._entity(one), "name": one.name}
        values = _made_of(one) | {
            "template_id": await choosing.template_id(self._connection, one, key["entity_id"]),
            "proxy_id": await choosing.proxy_id(self._connection, one),
            "disable_update": one.disable_update,
        }
        values |= await self._number(scale_sets, _is(scale_sets, key, row_id))
        row_id, changed = await self._writing.upsert("scale set", scale_sets, key, values, row_id=row_id)
        if _MAKING & set(changed):
            await self._writing.date(scale_sets.c.id == row_id, scale_sets)
        return row_id

    async def template(self, template: TemplateDeclaration, row_id: str = "") -> str:
        if template.name in {one.name for one in SYSTEM}:
            raise AlreadyThere(f"the template '{template.name}' comes with Hostler", hint="choose another name")
        values: dict[str, Any] = {
            "description": template.description,
            "os_type": template.os_type,
            "forge": template.forge.value,
        }
        sealed = {"data": template.data}
        key = {"name": template.name}
        await self._same_system(template, _is(templates, key, row_id))
        values |= await self._number(templates, _is(templates, key, row_id), FIRST_OWN)
        row_id, changed = await self._writing.upsert("template", templates, key, values, sealed, row_id=row_id)
        if "data" in changed:
            for table in (pools, scale_sets):
                await self._writing.date(table.c.template_id == row_id, table)
        return row_id

    async def proxy(self, proxy: ProxyDeclaration, row_id: str = "") -> str:
        values: dict[str, Any] = {
            "description": proxy.description,
            "http_proxy": proxy.http_proxy,
            "https_proxy": proxy.https_proxy,
            "no_proxy": proxy.no_proxy,
            "username": proxy.username,
        }
        key, sealed = {"name": proxy.name}, {} if proxy.password is None else {"password": proxy.password}
        values |= await self._number(proxies, _is(proxies, key, row_id))
        row_id, changed = await self._writing.upsert("proxy", proxies, key, values, sealed, row_id=row_id)
        if set(changed) - {"name", "description"}:
            for table in (pools, scale_sets):
                await self._writing.date(table.c.proxy_id == row_id, table)
        return row_id

    async def _same_system(self, template: TemplateDeclaration, which: sa.ColumnElement[bool]) -> None:
        """What names it was checked against the forge and the system that it had then."""
        row = (await self._connection.execute(sa.select(templates.c.forge, templates.c.os_type).where(which))).first()
        if row is not None and (row.forge, row.os_type) != (template.forge, template.os_type):
            raise Clash(
                f"the template '{template.name}' is for runners of {row.forge} on {row.os_type}, and stays so",
                hint="give the new one another name",
            )

    async def _check_flavor(self, one: Making) -> None:
        if one.provider in self._known_providers:
            await self._no_devices(one)
        else:
            await self._flavor(one.flavor, one.name)

    async def _no_devices(self, pool: Making) -> None:
        """A cloud takes its flavors by name alone: who relies on one of ours for a device would get none."""
        row = (await self._connection.execute(sa.select(flavors).where(flavors.c.name == pool.flavor))).first()
        if row is not None and row.devices:
            raise Clash(
                f"pool '{pool.name}': the devices of flavor '{pool.flavor}' are those of our own hosts, "
                f"and '{pool.provider}' has none of them",
                hint="name a flavor of the provider's own that has what is wanted",
            )

    async def _alone(self, endpoint: EndpointDeclaration) -> None:
        """A webhook names its forge by address alone, so no two endpoints may have the same."""
        same = (sa.func.lower(endpoints.c.base_url) == endpoint.base_url.lower()) & (endpoints.c.name != endpoint.name)
        other = (await self._connection.execute(sa.select(endpoints.c.name).where(same))).scalar()
        if other is not None:
            raise Clash(
                f"endpoint '{endpoint.name}': the base_url '{endpoint.base_url}' is that of endpoint '{other}'",
                hint="use that endpoint, or correct the base_url of one of them",
            )

    async def _stays(self, name: str, endpoint_id: str) -> None:
        """Credentials that moved would send one forge's token to another."""
        query = sa.select(credentials.c.endpoint_id).where(credentials.c.name == name)
        known = (await self._connection.execute(query)).scalar()
        if known not in (None, endpoint_id):
            raise Clash(f"the credentials '{name}' are of another endpoint", hint="give the new ones another name")

    async def _spelled(self, endpoint_id: str, named: EntityName) -> tuple[str, str, bool]:
        """As it is in the database, where it is there in another spelling, for forges do not regard case; else new."""
        where = _is_entity(endpoint_id, named)
        row = (await self._connection.execute(sa.select(entities.c.owner, entities.c.name).where(where))).first()
        return (row.owner, row.name, False) if row else (named.owner, named.name, True)

    async def _is_of(self, endpoint_id: str, kind: ForgeKind, what: str) -> None:
        query = sa.select(endpoints.c.name, endpoints.c.kind).where(endpoints.c.id == endpoint_id)
        endpoint = (await self._connection.execute(query)).one()
        if endpoint.kind != kind:
            raise Clash(f"{what} are {kind} only, and the endpoint '{endpoint.name}' is {endpoint.kind}")

    async def _endpoint(self, name: str) -> str:
        return await self._writing.find("endpoint", name, endpoints, endpoints.c.name == name)

    async def _credentials(self, name: str, endpoint_id: str) -> str:
        mine = (credentials.c.name == name) & (credentials.c.endpoint_id == endpoint_id)
        return await self._writing.find("credentials", name, credentials, mine, " of its endpoint")

    async def _flavor(self, name: str, pool: str) -> str:
        return await self._writing.find("flavor", name, flavors, flavors.c.name == name, f", which pool '{pool}' names")

    async def _entity(self, one: OfEntity) -> str:
        named = one.owner
        mine = _is_entity(await self._endpoint(one.endpoint), named)
        return await self._writing.find(named.kind.table, named.full, entities, mine)


_SECRET_OF: Final = {AuthKind.TOKEN: "token", AuthKind.APP: "private_key"}
_ONLY_AT: Final = {EntityKind.ENTERPRISE: ForgeKind.GITHUB, EntityKind.INSTANCE: ForgeKind.GITEA}


def _not_given(whose: str, key: str) -> Clash:
    return Clash(f"the {key} of {whose} is new, and not said", hint=f"give it as {key}, {key}_file or {key}_env")


def _is(table: sa.Table, key: dict[str, Any], row_id: str) -> sa.ColumnElement[bool]:
    """The one of that id, or where none is given of that key."""
    if row_id:
        return table.c.id == row_id
    return sa.and_(*(table.c[name] == value for name, value in key.items()))


def _is_entity(endpoint_id: str, named: EntityName) -> sa.ColumnElement[bool]:
    return sa.and_(
        entities.c.endpoint_id == endpoint_id,
        entities.c.kind == named.kind,
        sa.func.lower(entities.c.owner) == named.owner.lower(),
        sa.func.lower(entities.c.name) == named.name.lower(),
    )


def _priorities(by_label: dict[str, int]) -> str:
    """Labels are compared without regard to case, so they are kept folded."""
    return msgspec.json.encode({label.casefold(): by_label[label] for label in sorted(by_label)}).decode()


def _made_of(one: Making) -> dict[str, Any]:
    """The columns of what pools and scale sets have in common."""
    return {
        "provider": one.provider,
        "image": one.image,
        "flavor": one.flavor,
        "arch": one.arch,
        "os_type": one.os_type,
        "labels": labels(one.labels),
        "max_runners": one.max_runners,
        "enabled": one.enabled,
        "runner_prefix": one.runner_prefix,
        "runner_group": one.runner_group,
        "bootstrap_timeout_seconds": one.bootstrap_timeout_minutes * 60,
        "extra_specs": msgspec.json.encode(one.extra_specs).decode(),
        "min_idle": one.min_idle_runners,
    }


# What a pool's machines are made of.
_MAKING: Final = {
    "provider", "image", "flavor", "arch", "os_type", "labels", "runner_group", "extra_specs",
    "network_policy", "network_allow", "template_id", "proxy_id",
}  # fmt: skip
