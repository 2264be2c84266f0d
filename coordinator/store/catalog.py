"""Endpoints, credentials, entities, flavors and pools: declared by people, read by everything else."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.declare import Declaration
from coordinator.declare_base import Refused
from coordinator.declare_plan import Action, Declarations, Plan, Step, plan, secrets_said
from coordinator.domain.fleet import AuthKind, Credentials, Endpoint, Entity, EntityKind, Pool
from coordinator.store import as_declared, changed, pruning
from coordinator.store.applying import Application
from coordinator.store.batch import Batcher
from coordinator.store.database import Database
from coordinator.store.proxy import proxy
from coordinator.store.retrying import retried
from coordinator.store.rows import POOL_QUERY, to_credentials, to_endpoint, to_entity, to_pool
from coordinator.store.schema import credentials, endpoints, entities, pools, templates
from coordinator.store.writing import Tools, Writing, opened, seal_owner
from hostler.errors import HostlerError
from providers.exec.spec import ProxyConfig


class ForgeAccess(NamedTuple):
    """What is needed to speak to a forge for an entity. Holds a secret."""

    endpoint: Endpoint
    entity: Entity
    token: str  # or an App's private key
    auth: AuthKind = AuthKind.TOKEN

    def __repr__(self) -> str:
        return f"ForgeAccess({self.endpoint.name}, {self.entity.full_name})"


class WebhookOwner(NamedTuple):
    """Whose webhook it is. Holds a secret."""

    entity: Entity
    secret: bytes

    def __repr__(self) -> str:
        return f"WebhookOwner({self.entity.full_name})"


class NothingDeclared(HostlerError):
    """Pruning by an empty document."""

    code = "nothing_declared"


class _OnlyTried(Exception):
    """A dry run came to its end."""


class Catalog:
    def __init__(
        self,
        database: Database,
        tools: Tools,
        forgotten: Callable[[], None],
    ) -> None:
        """`forgotten` is told when anything was applied."""
        self._database = database
        self._tools = tools
        self._sealer = tools.sealer
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

    async def webhook_secret(self, entity_id: str) -> str:
        async with self._database.read() as connection:
            query = sa.select(entities.c.webhook_secret).where(entities.c.id == entity_id)
            sealed = (await connection.execute(query)).scalar_one()
        return self._sealer.open(sealed, f"entity:{entity_id}").decode()

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
        token = self._sealer.open(secret.token, seal_owner("credentials", secret.id)).decode()
        ca_bundle = opened(self._sealer, endpoint.ca_bundle, seal_owner("endpoint", endpoint.id))
        return ForgeAccess(to_endpoint(endpoint, ca_bundle), to_entity(entity), token, AuthKind(secret.auth))

    async def pool(self, pool_id: str) -> Pool:
        async with self._database.read() as connection:
            return to_pool((await connection.execute(POOL_QUERY.where(pools.c.id == pool_id))).one())

    async def install_template(self, pool_id: str) -> str:
        """The text of the template that the pool names; empty: it names none. May hold secrets."""
        query = sa.select(templates.c.id, templates.c.data).join(pools, pools.c.template_id == templates.c.id)
        async with self._database.read() as connection:
            row = (await connection.execute(query.where(pools.c.id == pool_id))).first()
        return opened(self._sealer, row.data, seal_owner("template", row.id)) if row else ""

    async def proxy(self, proxy_id: str) -> ProxyConfig:
        """May hold a password."""
        async with self._database.read() as connection:
            return await proxy(connection, self._sealer, proxy_id)

    async def credentials(self) -> list[Credentials]:
        """All there are, without their secrets."""
        query = sa.select(credentials, endpoints.c.registrations_per_minute)
        async with self._database.read() as connection:
            rows = await connection.execute(query.join(endpoints, endpoints.c.id == credentials.c.endpoint_id))
            return [to_credentials(row) for row in rows]

    async def pools(self) -> list[Pool]:
        async with self._database.read() as connection:
            return [to_pool(row) for row in await connection.execute(POOL_QUERY)]

    async def entities(self) -> list[Entity]:
        async with self._database.read() as connection:
            return [to_entity(row) for row in await connection.execute(sa.select(entities))]

    async def declared(self) -> Declarations:
        """All there is, as somebody would declare it. Holds secrets."""
        async with self._database.read() as connection:
            return await as_declared.everything(connection, self._sealer)

    async def apply(
        self, declared: Declaration, known_providers: frozenset[str], *, prune: bool = False, dry_run: bool = False
    ) -> Plan:
        """Create or update what is declared, and remove the rest where asked for, all or nothing.

        Args:
            dry_run: do it, so that it is refused as it would be, and undo it.

        Raises:
            DeclaredTwice, UnknownReference, Clash, InUse, NothingDeclared: nothing was changed.
        """
        if prune and declared == Declaration():
            raise NothingDeclared("the document declares nothing, and pruning by it would remove everything there is")
        if prune and not dry_run:  # what is refused must not have lost its history
            await self._forget_history(await self._apply(declared, known_providers, prune=True, dry_run=True))
        try:
            return await self._apply(declared, known_providers, prune=prune, dry_run=dry_run)
        finally:
            self.forget()  # also when whoever asked has gone: it may be committed all the same

    @retried
    async def _apply(
        self, declared: Declaration, known_providers: frozenset[str], *, prune: bool, dry_run: bool
    ) -> Plan:
        with suppress(_OnlyTried):
            async with self._database.write() as connection:
                changed.of(connection).catalog = True
                there = await as_declared.everything(connection, self._sealer, secrets_said(declared))
                made = plan(there, declared, prune=prune)
                await _carry_out(made, Writing(connection, self._tools), known_providers, removing=not dry_run)
                if dry_run:
                    raise _OnlyTried  # which rolls back
        return made

    async def _forget_history(self, made: Plan) -> None:
        """In transactions of their own: webhooks wait for SQLite's only writer."""
        going = pruning.going(made)
        for step in made.changing:
            while step.action is Action.REMOVE and await self._forget_some(step, going):
                pass

    @retried
    async def _forget_some(self, step: Step, going: frozenset[str]) -> int:
        async with self._database.write() as connection:
            return await pruning.forget_some(connection, step, going)

    def forget(self) -> None:
        """Something was applied, here or by another coordinator."""
        self._generation += 1
        self._owners.clear()
        self._access.clear()
        self._forgotten()


async def _carry_out(made: Plan, writing: Writing, known_providers: frozenset[str], *, removing: bool) -> None:
    application = Application(writing, known_providers)
    going = pruning.going(made)
    for step in made.changing:
        if step.action is not Action.REMOVE:
            try:
                await application.one(step.declared)
            except Refused as refused:
                refused.place = f"{step.kind}[{step.index}]"
                raise
            continue
        row = await pruning.removable(writing.connection, step, going, known_providers)
        if removing:
            await pruning.remove(writing, step, row)
    await writing.try_anew()
