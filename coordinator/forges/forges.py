"""All forges of this installation: a client per entity, the runner downloads kept for a while."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import aiohttp

from coordinator.forges.contract import Forge, ForgeRefused, Hooks
from coordinator.forges.github import GitHub
from coordinator.forges.kept import KeptAnswers
from coordinator.forges.usable import unusable
from coordinator.store.catalog import Catalog
from providers.exec.spec import Tool

# GitHub's temporary download tokens live for an hour; GARM keeps the list for five minutes.
_TOOLS_AGE: Final = timedelta(minutes=5)

_AT_ONCE: Final = 50
"""Calls in flight with one credential. GitHub allows 100 (rate limits for the REST API); others may use it as well."""


class Forges:
    def __init__(self, catalog: Catalog, session: aiohttp.ClientSession, clock: Callable[[], datetime]) -> None:
        self._catalog = catalog
        self._session = session
        self._clock = clock
        self._tools: dict[str, tuple[datetime, list[Tool]]] = {}
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._kept = KeptAnswers()

    async def of(self, entity_id: str) -> Forge:
        """The client for an entity, with the credentials that it has now.

        Raises:
            ForgeRefused: no client can speak for it.
        """
        return await self._client(entity_id)

    async def hooks_of(self, entity_id: str) -> Hooks:
        """As `of`, for its webhooks."""
        return await self._client(entity_id)

    async def _client(self, entity_id: str) -> GitHub:
        access = await self._catalog.forge_access(entity_id)
        reason = unusable(access.endpoint, access.entity, access.auth)
        if reason:
            raise ForgeRefused(f"{access.endpoint.name} ({access.entity.full_name}): {reason}")
        slots = self._slots.setdefault(access.entity.credentials_id, asyncio.Semaphore(_AT_ONCE))
        return GitHub(self._session, access, slots, self._kept)

    async def tools(self, entity_id: str) -> list[Tool]:
        """Downloads of the runner program; at most five minutes old.

        Raises:
            ForgeError: as the forge says.
        """
        kept = self._tools.get(entity_id)
        if kept is not None and self._clock() < kept[0] + _TOOLS_AGE:
            return kept[1]
        tools = await (await self.of(entity_id)).tools()
        self._tools[entity_id] = (self._clock(), tools)
        return tools
