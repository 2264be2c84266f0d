"""Endpoints, credentials, entities, flavors and pools: declared by people, read by everything else."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.accounts.chain import MASK
from coordinator.declare import Declaration, EndpointDeclaration, FlavorDeclaration, PoolDeclaration
from coordinator.declare_image import ImageDeclaration
from coordinator.domain.fleet import Credentials, Endpoint, Entity, EntityKind, Pool
from coordinator.domain.labels import labels
from coordinator.store import changed, cooldowns, tried
from coordinator.store.audit import Audit
from coordinator.store.batch import Batcher
from coordinator.store.database import Database
from coordinator.store.retrying import retried
from coordinator.store.rows import POOL_QUERY, to_credentials, to_endpoint, to_entity, to_pool
from coordinator.store.schema import credentials, endpoints, entities, flavors, images, pools
from coordinator.store.sealing import Sealer
from hostler.errors import HostlerError


class UnknownReference(HostlerError):
    """A declared object refers to one that is neither declared nor in the database."""

    code = "unknown_reference"


class Clash(HostlerError):
    """A declared object cannot be beside what is there."""

    code = "clash"


class ForgeAccess(NamedTuple):
    """What is needed to speak to a forge for an entity. Holds a secret."""

    endpoint: Endpoint
    entity: Entity
    token: str

    def __repr__(self) -> str:
        return f"ForgeAccess({self.endpoint.name}, {self.entity.full_name})"


class WebhookOwner(NamedTuple):
    """Whose webhook it is. Holds a secret."""

    entity: Entity
    secret: bytes

    def __repr__(self) -> str:
        return f"WebhookOwner({self.entity.full_name})"


class Catalog:
    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        audit: Audit,
        new_id: Callable[[], str],
        forgotten: Callable[[], None],
    ) -> None:
        """`forgotten` is told when anything was applied."""
        self._database = database
        self._sealer = sealer
        self._audit = audit
        self._new_id = new_id
        self._forgotten = forgotten
        # What every webhook and every create asks for, until something is applied.
        self._owners: dict[tuple[str, str, str], WebhookOwner] = {}
        self._access: dict[str, ForgeAccess] = {}
        self._accesses: Batcher[str, ForgeAccess] = Batcher(self._read_accesses)
        self._generation = 0  # what was read before the last change must not be kept

    async def repository(self, base_url: str, owner: str, name: str) -> WebhookOwner | None:
        """The repository by its forge's address and its name, compared as forges do, without regard to case."""
        key = (base_url.lower(), owner.lower(), name.lower())
        known = self._owners.get(key)
        if known is not None:
            return known
        generation = self._generation
        found = await self._repository(key)
        if found is not None and generation == self._generation:
            self._owners[key] = found
        return found

    async def _repository(self, key: tuple[str, str, str]) -> WebhookOwner | None:
        base_url, owner, name = key
        query = (
            sa.select(entities)
            .join(endpoints, endpoints.c.id == entities.c.endpoint_id)
            .where(
                sa.func.lower(endpoints.c.base_url) == base_url,
                entities.c.kind == EntityKind.REPOSITORY,
                sa.func.lower(entities.c.owner) == owner,
                sa.func.lower(entities.c.name) == name,
            )
        )
        async with self._database.read() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            return None
        return WebhookOwner(to_entity(row), self._sealer.open(row.webhook_secret, f"entity:{row.id}"))

    async def forge_access(self, entity_id: str) -> ForgeAccess:
        known = self._access.get(entity_id)
        if known is not None:
            return known
        generation = self._generation
        found = await self._accesses.submit(entity_id)
        if generation == self._generation:
            self._access[entity_id] = found
        return found

    async def _read_accesses(self, entity_ids: Sequence[str]) -> list[ForgeAccess]:
        """Of all who ask at once, each instance under way when a coordinator starts: one reading of each entity."""
        found: dict[str, ForgeAccess] = {}
        async with self._database.read() as connection:
            for entity_id in dict.fromkeys(entity_ids):
                found[entity_id] = await self._read_access(connection, entity_id)
        return [found[entity_id] for entity_id in entity_ids]

    async def _read_access(self, connection: AsyncConnection, entity_id: str) -> ForgeAccess:
        entity = (await connection.execute(sa.select(entities).where(entities.c.id == entity_id))).one()
        endpoint = (await connection.execute(sa.select(endpoints).where(endpoints.c.id == entity.endpoint_id))).one()
        query = sa.select(credentials).where(credentials.c.id == entity.credentials_id)
        secret = (await connection.execute(query)).one()
        token = self._sealer.open(secret.token, f"credentials:{secret.id}").decode()
        return ForgeAccess(to_endpoint(endpoint), to_entity(entity), token)

    async def pool(self, pool_id: str) -> Pool:
        async with self._database.read() as connection:
            return to_pool((await connection.execute(POOL_QUERY.where(pools.c.id == pool_id))).one())

    async def credentials(self) -> list[Credentials]:
        """All there are, without their secrets."""
        query = sa.select(credentials, endpoints.c.registrations_per_minute)
        async with self._database.read() as connection:
            rows = await connection.execute(query.join(endpoints, endpoints.c.id == credentials.c.endpoint_id))
            return [to_credentials(row) for row in rows]

    async def endpoints(self) -> list[Endpoint]:
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(endpoints).order_by(endpoints.c.name))
            return [to_endpoint(row) for row in rows]

    async def pools(self) -> list[Pool]:
        async with self._database.read() as connection:
            return [to_pool(row) for row in await connection.execute(POOL_QUERY)]

    async def entities(self) -> list[Entity]:
        async with self._database.read() as connection:
            return [to_entity(row) for row in await connection.execute(sa.select(entities))]

    @retried
    async def apply(self, declared: Declaration, known_providers: frozenset[str]) -> list[str]:
        """Create or update what is declared, all or nothing; a line for each object that changed.

        Raises:
            UnknownReference, Clash: nothing was changed.
        """
        try:
            async with self._database.write() as connection:
                changed.of(connection).catalog = True
                apply = _Apply(connection, self._sealer, self._audit, self._new_id, known_providers)
                return await apply.run(declared)
        finally:
            self.forget()  # also when whoever asked has gone: it may be committed all the same

    def forget(self) -> None:
        """Something was applied, here or by another coordinator."""
        self._generation += 1
        self._owners.clear()
        self._access.clear()
        self._forgotten()


class _Apply:
    """One application of a declaration within one transaction."""

    def __init__(
        self,
        connection: AsyncConnection,
        sealer: Sealer,
        audit: Audit,
        new_id: Callable[[], str],
        known_providers: frozenset[str],
    ) -> None:
        self._connection = connection
        self._sealer = sealer
        self._audit = audit
        self._new_id = new_id
        self._known_providers = known_providers
        self._changes: list[str] = []
        self._touched: defaultdict[str, set[str]] = defaultdict(set)  # kind to ids of what is new or changed

    async def run(self, declared: Declaration) -> list[str]:
        for endpoint in declared.endpoint:
            values: dict[str, Any] = {
                "kind": endpoint.kind,
                "base_url": endpoint.base_url,
                "api_base_url": endpoint.api_base_url,
                "registrations_per_minute": endpoint.registration_limit,
            }
            await self._alone(endpoint)
            await self._upsert("endpoint", endpoints, {"name": endpoint.name}, values)
        for secret in declared.credentials:
            key = {"name": secret.name}
            values = {"endpoint_id": await self._endpoint(secret.endpoint)}
            await self._stays(secret.name, values["endpoint_id"])
            await self._upsert("credentials", credentials, key, values, {"token": secret.token})
        for flavor in declared.flavor:
            await self._make_anew_of(flavor)
        for image in declared.image:
            await self._image(image)
        for repository in declared.repository:
            endpoint_id = await self._endpoint(repository.endpoint)
            owner, name = await self._spelled(endpoint_id, repository.owner, repository.name)
            key = {"endpoint_id": endpoint_id, "kind": EntityKind.REPOSITORY.value, "owner": owner, "name": name}
            values = {
                "credentials_id": await self._credentials(repository.credentials, endpoint_id),
                "weight": repository.weight,
                "quota": repository.quota,
                "priority": repository.priority,
                "label_priorities": _priorities(repository.label_priorities),
                "balancer": repository.balancer.value,
            }
            await self._upsert("repository", entities, key, values, {"webhook_secret": repository.webhook_secret})
        for pool in declared.pool:
            await self._pool(pool)
        if self._touched:
            await self._try_anew()
        return self._changes

    async def _make_anew_of(self, flavor: FlavorDeclaration) -> None:
        resources = msgspec.structs.asdict(flavor.resources)
        if await self._upsert("flavor", flavors, {"name": flavor.name}, resources):
            ours = pools.c.provider.not_in(self._known_providers)  # a cloud's flavors are its own
            await self._date((pools.c.flavor == flavor.name) & ours)

    async def _date(self, which: sa.ColumnElement[bool]) -> None:
        """Idle runners of an older making are replaced."""
        await self._connection.execute(sa.update(pools).where(which).values(generation=pools.c.generation + 1))

    async def _try_anew(self) -> None:
        """What was changed may be what was wrong: pools that rest, and jobs that wait for them, are tried again now."""
        touched = self._touched
        query = sa.select(pools.c.id, pools.c.entity_id).join(entities, entities.c.id == pools.c.entity_id)
        meant = sa.or_(
            pools.c.id.in_(touched["pool"]),
            pools.c.flavor.in_(sa.select(flavors.c.name).where(flavors.c.id.in_(touched["flavor"]))),
            entities.c.id.in_(touched["repository"]),
            entities.c.credentials_id.in_(touched["credentials"]),
            entities.c.endpoint_id.in_(touched["endpoint"]),
        )
        rows = (await self._connection.execute(query.where(meant))).all()
        await cooldowns.wake_pools(self._connection, sorted(row.id for row in rows))
        await tried.forgive(self._connection, sorted({row.entity_id for row in rows}))

    async def _image(self, image: ImageDeclaration) -> None:
        values = {
            "url": image.url,
            "sha256": image.digest,
            "format": image.disk_format.value,
            "compression": image.packed_by.value,
        }
        changed = await self._upsert("image", images, {"name": image.name, "arch": image.arch}, values)
        if set(changed) - {"url"}:
            # Idle runners of the older content are replaced.
            of_it = (pools.c.image == image.name) & (pools.c.arch == image.arch)
            await self._connection.execute(sa.update(pools).where(of_it).values(generation=pools.c.generation + 1))

    async def _pool(self, pool: PoolDeclaration) -> None:
        if pool.provider not in self._known_providers:
            await self._flavor(pool.flavor, pool.name)
        elif pool.says_network:
            raise Clash(
                f"pool '{pool.name}': '{pool.provider}' keeps no network_policy and no network_allow",
                hint="leave them out, and say it in the provider's own terms, in extra_specs",
            )
        else:
            await self._no_devices(pool)
        key = {"entity_id": await self._entity(pool), "name": pool.name}
        values: dict[str, Any] = {
            "provider": pool.provider,
            "image": pool.image,
            "flavor": pool.flavor,
            "arch": pool.arch,
            "os_type": pool.os_type,
            "labels": labels(pool.labels),
            "max_runners": pool.max_runners,
            "enabled": pool.enabled,
            "priority": pool.priority,
            "runner_prefix": pool.runner_prefix,
            "runner_group": pool.runner_group,
            "bootstrap_timeout_seconds": pool.bootstrap_timeout_minutes * 60,
            "extra_specs": msgspec.json.encode(pool.extra_specs).decode(),
            "min_idle": pool.min_idle_runners,
            "placement": pool.placement.value,
            "share_hosts": pool.share_hosts,
            "network_policy": pool.network_policy.value,
            "network_allow": msgspec.json.encode(pool.network_allow).decode(),
        }
        changed = await self._upsert("pool", pools, key, values)
        if _MAKING & set(changed):
            await self._date((pools.c.entity_id == key["entity_id"]) & (pools.c.name == pool.name))

    async def _no_devices(self, pool: PoolDeclaration) -> None:
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

    async def _spelled(self, endpoint_id: str, owner: str, name: str) -> tuple[str, str]:
        """As it is in the database, where it is there in another spelling: forges do not regard case."""
        where = _is_repository(endpoint_id, owner, name)
        row = (await self._connection.execute(sa.select(entities.c.owner, entities.c.name).where(where))).first()
        return (row.owner, row.name) if row else (owner, name)

    async def _endpoint(self, name: str) -> str:
        return await self._find("endpoint", name, endpoints, endpoints.c.name == name)

    async def _credentials(self, name: str, endpoint_id: str) -> str:
        mine = (credentials.c.name == name) & (credentials.c.endpoint_id == endpoint_id)
        return await self._find("credentials", name, credentials, mine, " of its endpoint")

    async def _flavor(self, name: str, pool: str) -> str:
        return await self._find("flavor", name, flavors, flavors.c.name == name, f", which pool '{pool}' names")

    async def _entity(self, pool: PoolDeclaration) -> str:
        owner, _, name = pool.repository.partition("/")
        mine = _is_repository(await self._endpoint(pool.endpoint), owner, name)
        return await self._find("repository", pool.repository, entities, mine)

    async def _find(self, kind: str, name: str, table: sa.Table, where: sa.ColumnElement[bool], among: str = "") -> str:
        row = (await self._connection.execute(sa.select(table.c.id).where(where))).first()
        if row is None:
            raise UnknownReference(
                f"there is no {kind} '{name}'{among}", hint=f"declare it in a [[{kind}]] table, or check its name"
            )
        return str(row.id)

    async def _upsert(
        self,
        kind: str,
        table: sa.Table,
        key: dict[str, Any],
        values: dict[str, Any],
        secrets: dict[str, str] | None = None,
    ) -> list[str]:
        """The columns of an object that was there and is changed; none for a new one."""
        where = sa.and_(*(table.c[name] == value for name, value in key.items()))
        row = (await self._connection.execute(sa.select(table).where(where))).first()
        row_id = row.id if row else self._new_id()
        owner = f"{_SEAL_OWNER.get(kind, kind)}:{row_id}"
        changed = [name for name, value in values.items() if row is None or getattr(row, name) != value]
        for name, secret in (secrets or {}).items():
            if row is None or self._sealer.open(getattr(row, name), owner) != secret.encode():
                values = values | {name: self._sealer.seal(secret.encode(), owner)}
                changed.append(name)
        if row is None or changed:
            self._touched[kind].add(row_id)
        label = f"{kind} {'/'.join(str(key[k]) for k in ('owner', 'name', 'arch') if k in key)}"
        if row is None:
            await self._connection.execute(sa.insert(table).values(id=row_id, **key, **values))
            self._changes.append(f"{label}: created")
            await self._audit.write(self._connection, "created", label, after=_told(values, values, secrets))
            return []
        if changed:
            await self._connection.execute(sa.update(table).where(table.c.id == row_id).values(**values))
            self._changes.append(f"{label}: updated ({', '.join(changed)})")
            old = {name: getattr(row, name) for name in changed}
            before, after = _told(old, changed, secrets), _told(values, changed, secrets)
            await self._audit.write(self._connection, "updated", label, before=before, after=after)
        return changed


def _is_repository(endpoint_id: str, owner: str, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        entities.c.endpoint_id == endpoint_id,
        entities.c.kind == EntityKind.REPOSITORY,
        sa.func.lower(entities.c.owner) == owner.lower(),
        sa.func.lower(entities.c.name) == name.lower(),
    )


def _told(values: Mapping[Any, Any], names: Iterable[str], secrets: Mapping[str, str] | None) -> dict[str, Any]:
    """For the audit log: what is sealed is not told, and what a provider is given is looked into."""
    told = {name: MASK if name in (secrets or {}) else values[name] for name in names}
    if "extra_specs" in told:
        told["extra_specs"] = msgspec.json.decode(told["extra_specs"])
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in told.items()}


def _priorities(by_label: dict[str, int]) -> str:
    """Labels are compared without regard to case, so they are kept folded."""
    return msgspec.json.encode({label.casefold(): by_label[label] for label in sorted(by_label)}).decode()


# What a pool's machines are made of.
_MAKING = {
    "provider", "image", "flavor", "arch", "os_type", "labels", "runner_group", "extra_specs",
    "network_policy", "network_allow",
}  # fmt: skip
_SEAL_OWNER = {"repository": "entity"}
