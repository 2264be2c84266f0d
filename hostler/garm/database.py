"""Reads GARM's SQLite database.

Tables and columns are those of GARM 0.1.5 to 0.2.1 and of the migrations that followed, up to scale set jobs: what an
older one has not is taken as empty (cloudbase/garm, database/sql/models.go and database/sql/migrations).
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from hostler.errors import ConfigError
from hostler.garm.model import (
    EntityTable,
    GarmCredentials,
    GarmEndpoint,
    GarmEntity,
    GarmFleet,
    GarmPool,
    GarmProxy,
    GarmScaleSet,
    GarmTemplate,
)
from hostler.garm.sealing import PASSPHRASE_BYTES, unseal

Row = Mapping[str, Any]

_NEEDED: Final = frozenset({"github_endpoints", "github_credentials", "repositories", "organizations", "pools", "tags"})
_ENTITIES: Final[dict[str, tuple[EntityTable, str]]] = {  # by table: what it holds, and how others refer to it
    "repositories": ("repository", "repo_id"),
    "organizations": ("organization", "org_id"),
    "enterprises": ("enterprise", "enterprise_id"),
    "forge_instances": ("forge_instance", "forge_instance_id"),
}


class _Pat(msgspec.Struct, frozen=True):
    oauth2_token: str


class _ProxyLogin(msgspec.Struct, frozen=True):
    username: str = ""
    password: str = ""


class _App(msgspec.Struct, frozen=True):
    app_id: int
    installation_id: int
    private_key_bytes: bytes


def read(path: Path, passphrase: bytes) -> GarmFleet:
    """
    Raises:
        ConfigError: it is no database that can be read, or none of GARM 0.1.5 or later.
        NotOpened: it was sealed by another passphrase.
    """
    if len(passphrase) != PASSPHRASE_BYTES:
        raise ConfigError(f"the passphrase has {len(passphrase)} bytes, and GARM's always have {PASSPHRASE_BYTES}")
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return _Reader(connection, passphrase).fleet()
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: cannot be read as a SQLite database: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: holds what no GARM writes: {error}") from None


class _Reader:
    def __init__(self, connection: sqlite3.Connection, passphrase: bytes) -> None:
        self._connection = connection
        self._passphrase = passphrase
        self._tables = {
            row["name"] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        missing = sorted(_NEEDED - self._tables)
        if missing:
            raise ConfigError(
                f"this is no database of GARM 0.1.5 or later: it has no table {', '.join(missing)}",
                hint="upgrade GARM to 0.1.5 first if it is older: it moves its credentials into the database",
            )

    def fleet(self) -> GarmFleet:
        credentials = {
            (forge, row["id"]): self._credentials(row, forge)
            for forge in ("github", "gitea")
            for row in self._rows(f"{forge}_credentials")
        }
        own = {row["id"]: row["name"] for row in self._rows("templates") if row.get("user_id")}
        proxy = {row["id"]: row["name"] for row in self._rows("proxies")}
        return GarmFleet(
            endpoints=tuple(map(_endpoint, self._rows("github_endpoints"))),
            credentials=tuple(credentials.values()),
            entities=tuple(self._entities(credentials)),
            pools=tuple(self._pools(own, proxy)),
            scale_sets=tuple(
                GarmScaleSet(
                    **_making(row, own, proxy), name=row["name"], disable_update=bool(row.get("disable_update"))
                )
                for row in self._rows("scale_sets")
            ),
            templates=tuple(self._template(row) for row in self._rows("templates") if row["id"] in own),
            proxies=tuple(map(self._proxy, self._rows("proxies"))),
        )

    def _template(self, row: Row) -> GarmTemplate:
        text = msgspec.json.decode(unseal(_bytes(row["data"]), self._passphrase), type=bytes)
        return GarmTemplate(
            name=row["name"],
            description=row["description"] or "",
            os_type=row["os_type"],
            forge=row["forge_type"],
            data=text.decode(),
        )

    def _proxy(self, row: Row) -> GarmProxy:
        sealed = _bytes(row["credentials"])
        login = msgspec.json.decode(unseal(sealed, self._passphrase), type=_ProxyLogin) if sealed else _ProxyLogin()
        return GarmProxy(
            name=row["name"],
            description=row["description"] or "",
            http_proxy=row["http_proxy"] or "",
            https_proxy=row["https_proxy"] or "",
            no_proxy=row["no_proxy"] or "",
            username=login.username,
            password=login.password,
        )

    def _rows(self, table: str) -> Iterator[dict[str, Any]]:
        """All that are not deleted; none of a table that this version has not."""
        if table not in self._tables:
            return
        for row in self._connection.execute(f"SELECT * FROM {table} ORDER BY created_at"):  # noqa: S608  (our own names)
            found = dict(row)
            if found.get("deleted_at") is None:
                yield found

    def _credentials(self, row: Row, forge: str) -> GarmCredentials:
        described = GarmCredentials(
            name=row["name"],
            forge=forge,
            endpoint=row["endpoint_name"] or "",
            auth=row["auth_type"] or "pat",
            description=row["description"] or "",
        )
        payload = unseal(_bytes(row["payload"]), self._passphrase)
        if described.auth == "app":
            app = msgspec.json.decode(payload, type=_App)
            return msgspec.structs.replace(
                described,
                app_id=app.app_id,
                installation_id=app.installation_id,
                private_key=app.private_key_bytes.decode(),
            )
        return msgspec.structs.replace(described, token=msgspec.json.decode(payload, type=_Pat).oauth2_token)

    def _entities(self, credentials: Mapping[tuple[str, int], GarmCredentials]) -> Iterator[GarmEntity]:
        for table, (kind, _) in _ENTITIES.items():
            for row in self._rows(table):
                forge = "gitea" if row.get("gitea_credentials_id") else "github"
                key = row.get("gitea_credentials_id") or row.get("credentials_id")
                used = credentials.get((forge, key or 0))
                yield GarmEntity(
                    id=row["id"],
                    table=kind,
                    endpoint=row["endpoint_name"] or (used.endpoint if used else ""),
                    forge=forge,
                    credentials=used.name if used else "",
                    owner=row.get("owner") or "",
                    name=row.get("name") or "",
                    webhook_secret=self._unsealed(row["webhook_secret"]),
                    balancer=row.get("pool_balancer_type") or "",
                    agent_mode=bool(row.get("agent_mode")),
                )

    def _unsealed(self, value: str | bytes | None) -> str | None:
        return unseal(_bytes(value), self._passphrase).decode() if value else None

    def _pools(self, templates: Mapping[int, str], proxies: Mapping[int, str]) -> Iterator[GarmPool]:
        names = {row["id"]: row["name"] for row in self._rows("tags")}
        tags: defaultdict[str, list[str]] = defaultdict(list)
        for row in self._connection.execute("SELECT pool_id, tag_id FROM pool_tags"):
            tags[row["pool_id"]] += [names[row["tag_id"]]] if row["tag_id"] in names else []
        for row in self._rows("pools"):
            yield GarmPool(
                **_making(row, templates, proxies),
                id=row["id"],
                tags=tuple(sorted(tags[row["id"]])),
                priority=row.get("priority") or 0,
            )


def _making(row: Row, templates: Mapping[int, str], proxies: Mapping[int, str]) -> dict[str, Any]:
    return {
        "entity_id": _entity_id(row),
        "provider": row["provider_name"],
        "image": row["image"],
        "flavor": row["flavor"],
        "os_type": row["os_type"],
        "os_arch": row["os_arch"],
        "enabled": bool(row["enabled"]),
        "max_runners": row["max_runners"],
        "min_idle_runners": row["min_idle_runners"],
        "runner_prefix": row["runner_prefix"] or "",
        "runner_group": row.get("git_hub_runner_group") or "",
        "bootstrap_timeout_minutes": row["runner_bootstrap_timeout"],
        "extra_specs": _specs(row["extra_specs"]),
        "template": templates.get(row.get("template_id") or 0, ""),
        "proxy": proxies.get(row.get("proxy_id") or 0, ""),
        "shell": bool(row.get("enable_shell")),
    }


def _endpoint(row: Row) -> GarmEndpoint:
    return GarmEndpoint(
        name=row["name"],
        forge=row.get("endpoint_type") or "github",
        base_url=row["base_url"],
        api_base_url=row["api_base_url"],
        upload_base_url=row["upload_base_url"] or "",
        description=row["description"] or "",
        ca_bundle=_bytes(row["ca_cert_bundle"]).decode(),
        tools_metadata_url=row.get("tools_metadata_url") or "",
        use_internal_tools_metadata=bool(row.get("use_internal_tools_metadata")),
    )


def _entity_id(row: Row) -> str:
    found = (row.get(reference) for _, reference in _ENTITIES.values())
    return next((str(one) for one in found if one), "")


def _specs(value: str | bytes | None) -> dict[str, Any]:
    return msgspec.json.decode(value, type=dict[str, Any] | None) or {} if value else {}


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""
