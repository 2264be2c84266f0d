"""Every operation of the REST API by every role: who may call it, and that nobody else does."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from coordinator.accounts.roles import Role
from hostler import tickets
from hostler.tickets import Kind
from tests.samples.http import Site, open_site

TOKENS: Final = {role: tickets.ticket(Kind.ADMIN, role.value.encode().ljust(16, b"+")) for role in Role}
OPEN: Final = {"FirstRun", "Login"}
NEEDED: Final = {
    Role.OPERATOR: {"DeleteInstance", "GetTemplate"},
    Role.ADMIN: {"GetMetricsToken", "ListAudit", "ListTokens", "ListUsers", "VerifyAudit"},
}
"""Of what is not as its method says: looking needs a viewer, and changing an administrator."""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as opened:
        end = opened.sample.clock().replace(year=2999)
        for role, token in TOKENS.items():
            await opened.store.admin_tokens.keep(role.value, tickets.digest(token), end, role)
        yield opened


def _needed(operation: str, method: str) -> Role:
    by_method = Role.VIEWER if method == "GET" else Role.ADMIN
    return next((role for role, operations in NEEDED.items() if operation in operations), by_method)


async def _operations(site: Site) -> dict[str, tuple[str, str]]:
    """Method and path of each."""
    document = (await site.client.get("/api/v1/openapi.json")).json()
    return {
        one["operationId"]: (method.upper(), re.sub(r"\{\w+\}", "7", path))
        for path, operations in document["paths"].items()
        for method, one in operations.items()
    }


async def _status(site: Site, method: str, path: str, token: str = "") -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    content = None if method == "GET" else b"[]"  # no body that any call takes, so that none changes anything
    return (await site.client.request(method, path, content=content, headers=headers)).status_code


async def test_each_role_may_call_its_own_and_no_more(site: Site) -> None:
    operations = await _operations(site)
    assert set().union(OPEN, *NEEDED.values()) <= operations.keys()
    wrong: list[str] = []
    for operation, (method, path) in operations.items():
        if operation in OPEN:
            continue
        for role, token in TOKENS.items():
            status = await _status(site, method, path, token)
            may = role.includes(_needed(operation, method))
            if (status != 403) != may or status >= 500:
                wrong.append(f"{operation} by {role}: {status}")
    assert wrong == []


async def test_without_a_token_nothing_is_answered(site: Site) -> None:
    await site.client.post(
        "/api/v1/first-run",
        json={"username": "ada", "password": "correct-Horse-battery-9-staple", "email": "ada@example.org"},
    )
    statuses = {
        operation: await _status(site, method, path) for operation, (method, path) in (await _operations(site)).items()
    }
    assert {operation for operation, status in statuses.items() if status != 401} == OPEN
