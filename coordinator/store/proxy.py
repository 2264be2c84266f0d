"""The proxy that machines are told of, with the name and the password that it asks for."""

from urllib.parse import quote, urlsplit

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.store.schema import proxies
from coordinator.store.sealing import Sealer
from coordinator.store.writing import opened, seal_owner
from providers.exec.spec import ProxyConfig


async def proxy(connection: AsyncConnection, sealer: Sealer, row_id: str) -> ProxyConfig:
    """Holds a password, where it has one."""
    row = (await connection.execute(sa.select(proxies).where(proxies.c.id == row_id))).one()
    password = opened(sealer, row.password, seal_owner("proxy", row.id))
    return ProxyConfig(
        http_proxy=with_login(row.http_proxy, row.username, password),
        https_proxy=with_login(row.https_proxy, row.username, password),
        no_proxy=row.no_proxy,
    )


def with_login(url: str, username: str, password: str) -> str:
    """The address as programs take it. One that says already who is there stays as it is."""
    parts = urlsplit(url)
    if not url or not username or "@" in parts.netloc:
        return url
    login = quote(username, safe="") + (f":{quote(password, safe='')}" if password else "")
    return parts._replace(netloc=f"{login}@{parts.netloc}").geturl()
