"""A GARM to move over: its database as its tables are documented, sealed as it seals, and the answers of its API."""

import base64
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

PASSPHRASE: Final = b"a passphrase of GARM is 32 bytes"
PAT: Final = "ghp_planted-in-garm-1414213562"
HOOK: Final = "planted-hook-of-garm-1732050807"
KEY: Final = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    .decode()
)
PROXY_PASSWORD: Final = "planted-proxy-of-garm-2236067977"
TEMPLATE: Final = """#!/bin/bash
{{- if .EnableBootDebug }}
set -x
{{- end }}
TOKEN="{{ .CallbackToken }}" # of {{ .RunnerName }}
{{- if .UseJITConfig }}
curl -H "Authorization: Bearer $TOKEN" "{{ .MetadataURL }}/credentials/runner" -o /home/{{ .RunnerUsername }}/.runner
{{- else }}
echo none
{{- end }}
echo ${#TOKEN} {{ .ExtraContext.zone }}
"""
"""As people derive them from GARM's own."""

_PACKAGE: Final = 65536  # DARE: what one package holds at most

SCHEMA: Final = """
CREATE TABLE github_endpoints (name varchar(64) PRIMARY KEY, created_at datetime, updated_at datetime,
  deleted_at datetime, endpoint_type text, tools_metadata_url text, use_internal_tools_metadata numeric,
  description text, api_base_url text, upload_base_url text, base_url text, ca_cert_bundle longblob);
CREATE TABLE github_credentials (id integer PRIMARY KEY AUTOINCREMENT, created_at datetime, updated_at datetime,
  deleted_at datetime, name varchar(64), user_id uuid, description text, auth_type text, payload longblob,
  endpoint_name varchar(64));
CREATE TABLE gitea_credentials (id integer PRIMARY KEY AUTOINCREMENT, created_at datetime, updated_at datetime,
  deleted_at datetime, name varchar(64), user_id uuid, description text, auth_type text, payload longblob,
  endpoint_name varchar(64));
CREATE TABLE tags (id uuid PRIMARY KEY, created_at datetime, updated_at datetime, deleted_at datetime, name text);
CREATE TABLE templates (id integer PRIMARY KEY AUTOINCREMENT, created_at datetime, updated_at datetime,
  deleted_at datetime, name varchar(128), user_id uuid, description text, os_type text, forge_type text, data longblob);
CREATE TABLE repositories (id uuid PRIMARY KEY, created_at datetime, updated_at datetime, deleted_at datetime,
  credentials_id integer, gitea_credentials_id integer, pool_manager_running numeric, owner text, name text,
  webhook_secret blob, pool_balancer_type varchar(64), agent_mode numeric, endpoint_name varchar(64));
CREATE TABLE organizations (id uuid PRIMARY KEY, created_at datetime, updated_at datetime, deleted_at datetime,
  credentials_id integer, gitea_credentials_id integer, name text, webhook_secret blob,
  pool_balancer_type varchar(64), agent_mode numeric, endpoint_name varchar(64));
CREATE TABLE enterprises (id uuid PRIMARY KEY, created_at datetime, updated_at datetime, deleted_at datetime,
  credentials_id integer, name text, webhook_secret blob, pool_balancer_type varchar(64), agent_mode numeric,
  endpoint_name varchar(64));
CREATE TABLE forge_instances (id uuid PRIMARY KEY, created_at datetime, updated_at datetime, deleted_at datetime,
  gitea_credentials_id integer, endpoint_name text, webhook_secret blob, pool_balancer_type varchar(64),
  agent_mode numeric);
CREATE TABLE scale_sets (id integer PRIMARY KEY AUTOINCREMENT, created_at datetime, updated_at datetime,
  deleted_at datetime, scale_set_id integer, name text, disable_update numeric, state text, extended_state text,
  provider_name text, runner_prefix text, max_runners integer, min_idle_runners integer,
  runner_bootstrap_timeout integer, image text, flavor text, os_type text, os_arch text, enabled numeric,
  last_message_id integer, desired_runner_count integer, extra_specs JSON, git_hub_runner_group text,
  enable_shell numeric, generation integer, repo_id uuid, org_id uuid, enterprise_id uuid, template_id integer,
  proxy_id integer);
CREATE TABLE proxies (id integer PRIMARY KEY AUTOINCREMENT, created_at datetime, updated_at datetime,
  deleted_at datetime, name varchar(64), description text, http_proxy text, https_proxy text, no_proxy text,
  credentials blob);
CREATE TABLE pools (id uuid PRIMARY KEY, created_at datetime, updated_at datetime, deleted_at datetime,
  provider_name text, runner_prefix text, max_runners integer, min_idle_runners integer,
  runner_bootstrap_timeout integer, image text, flavor text, os_type text, os_arch text, enabled numeric,
  extra_specs JSON, git_hub_runner_group text, enable_shell numeric, generation integer, repo_id uuid, org_id uuid,
  enterprise_id uuid, template_id integer, priority integer, forge_instance_id uuid, proxy_id integer);
CREATE TABLE pool_tags (pool_id uuid, tag_id uuid, PRIMARY KEY (pool_id, tag_id));
"""


def sealed(plain: bytes, passphrase: bytes = PASSPHRASE, *, version: int = 2, chacha: bool = False) -> bytes:
    """An envelope, as GARM writes it."""
    salt = os.urandom(32)
    key = HKDF(SHA256(), 32, salt=salt, info=None).derive(passphrase)
    cipher = ChaCha20Poly1305(key) if chacha else AESGCM(key)
    nonce = bytearray(os.urandom(12))
    pieces = [plain[at : at + _PACKAGE] for at in range(0, len(plain), _PACKAGE)]
    data = b""
    for number, piece in enumerate(pieces):
        nonce[0] = nonce[0] | 0x80 if number == len(pieces) - 1 else nonce[0] & 0x7F
        start = bytes([version * 16, int(chacha)]) + (len(piece) - 1).to_bytes(2, "little")
        said = number.to_bytes(4, "little") + bytes(nonce[4:]) if version == 1 else bytes(nonce)
        used = said
        if version == 2:
            used = said[:8] + (int.from_bytes(said[8:], "little") ^ number).to_bytes(4, "little")
        data += start + said + cipher.encrypt(used, piece, start)
    return json.dumps({"nonce": list(salt), "data": base64.b64encode(data).decode()}).encode()


def old_sealed(plain: bytes) -> bytes:
    nonce = os.urandom(12)
    return nonce + AESGCM(PASSPHRASE).encrypt(nonce, plain, None)


def pool_row(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"00000000-0000-4000-8000-00000000000{number}",
        "provider_name": "cloud",
        "runner_prefix": "Garm",
        "max_runners": 5,
        "min_idle_runners": 1,
        "runner_bootstrap_timeout": 20,
        "image": "ubuntu-22.04",
        "flavor": "m1.small",
        "os_type": "linux",
        "os_arch": "amd64",
        "enabled": 1,
        "extra_specs": b'{"zone": "b", "nothing": null}',
        "git_hub_runner_group": "",
        "priority": 3,
        **more,
    }


def scale_set_row(name: str, **more: Any) -> dict[str, Any]:
    pool = pool_row(0, repo_id="r-1", **more)
    return {key: value for key, value in pool.items() if key not in ("id", "priority")} | {"name": name}


def template_row(number: int, name: str, text: str) -> dict[str, Any]:
    data = sealed(json.dumps(base64.b64encode(text.encode()).decode()).encode())
    return {"id": number, "name": name, "user_id": "u-1", "os_type": "linux", "forge_type": "github", "data": data}


def write_database(path: Path, *, drop: tuple[str, ...] = ()) -> None:
    """Two forges, entities of all kinds, pools that can be taken over and pools that cannot.

    Args:
        drop: tables that this GARM does not have.
    """
    pat = sealed(json.dumps({"oauth2_token": PAT}).encode())
    app = {"app_id": 7, "installation_id": 8, "private_key_bytes": base64.b64encode(KEY.encode()).decode()}
    hook = sealed(HOOK.encode())
    github = {"base_url": "https://github.com", "api_base_url": "https://api.github.com/", "endpoint_type": "github"}
    gitea = {"base_url": "https://gitea.example", "api_base_url": "https://gitea.example/api/v1"}
    owned = {"webhook_secret": hook, "credentials_id": 1, "endpoint_name": "github.com"}
    rows: list[tuple[str, dict[str, Any]]] = [
        ("github_endpoints", {"name": "github.com", **github, "upload_base_url": "https://uploads.github.com/"}),
        ("github_endpoints", {"name": "my gitea", **gitea, "endpoint_type": "gitea"}),
        ("github_credentials", {"name": "bot", "auth_type": "pat", "payload": pat, "endpoint_name": "github.com"}),
        (
            "github_credentials",
            {
                "name": "app",
                "auth_type": "app",
                "payload": sealed(json.dumps(app).encode()),
                "endpoint_name": "github.com",
            },
        ),
        ("gitea_credentials", {"name": "bot", "auth_type": "pat", "payload": pat, "endpoint_name": "my gitea"}),
        ("repositories", {"id": "r-1", "owner": "Octo", "name": "Widgets", "pool_balancer_type": "pack", **owned}),
        ("repositories", {"id": "r-2", "owner": "gone", "name": "gone", "deleted_at": "2026-01-01", **owned}),
        ("organizations", {"id": "o-1", "name": "acme", **owned, "credentials_id": 2, "agent_mode": 1}),
        ("enterprises", {"id": "e-1", "name": "corp", **owned}),
        (
            "forge_instances",
            {"id": "f-1", "gitea_credentials_id": 1, "endpoint_name": "my gitea", "webhook_secret": hook},
        ),
        ("templates", {"id": 1, "name": "github_linux"}),
        ("templates", template_row(2, "mine", TEMPLATE)),
        ("templates", template_row(3, "too much", "{{ range .ExtraContext }}x{{ end }}")),
        (
            "proxies",
            {
                "id": 1,
                "name": "out there",
                "http_proxy": "http://proxy.example:3128",
                "credentials": sealed(json.dumps({"username": "builder", "password": PROXY_PASSWORD}).encode()),
            },
        ),
        ("pools", pool_row(1, repo_id="r-1", template_id=1)),
        ("pools", pool_row(2, org_id="o-1", template_id=2)),
        ("pools", pool_row(3, repo_id="r-1", provider_name="lxd_local")),
        ("pools", pool_row(4, repo_id="r-1", os_arch="arm")),
        ("pools", pool_row(5, forge_instance_id="f-1")),
        ("pools", pool_row(6, repo_id="r-1", deleted_at="2026-01-01")),
        ("pools", pool_row(7, repo_id="r-1", template_id=3)),
        ("scale_sets", scale_set_row("big", template_id=2, proxy_id=1, disable_update=1)),
        ("scale_sets", scale_set_row("far", provider_name="lxd_local")),
        ("tags", {"id": "t-1", "name": "self-hosted"}),
        *(("pool_tags", {"pool_id": pool_row(number)["id"], "tag_id": "t-1"}) for number in range(1, 8)),
    ]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(SCHEMA)
        for table, row in rows:
            places = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", list(row.values()))  # noqa: S608
        for table in drop:
            connection.execute(f"DROP TABLE {table}")


_ENDPOINT: Final = {
    "name": "github.com",
    "description": "The github.com endpoint",
    "api_base_url": "https://api.github.com/",
    "upload_base_url": "https://uploads.github.com/",
    "base_url": "https://github.com",
    "created_at": "2026-01-02T03:04:05.678Z",
    "updated_at": "2026-01-02T03:04:05.678Z",
    "endpoint_type": "github",
}
_ENTITY: Final = {
    "credentials_id": 1,
    "credentials_name": "bot",
    "pool_manager_status": {"running": True},
    "pool_balancing_type": "roundrobin",
    "endpoint": _ENDPOINT,
    "created_at": "2026-01-02T03:04:05Z",
}
ANSWERS: Final[dict[str, Any]] = {
    "github/endpoints": [_ENDPOINT],
    "github/credentials": [
        {"id": 1, "name": "bot", "auth-type": "pat", "forge_type": "github", "endpoint": _ENDPOINT, "repositories": []},
        {"id": 2, "name": "app", "auth-type": "app", "forge_type": "github", "endpoint": _ENDPOINT, "rate_limit": None},
    ],
    "repositories": [{"id": "r-1", "owner": "Octo", "name": "Widgets", "pool": None, **_ENTITY}],
    "organizations": [{"id": "o-1", "name": "acme", **_ENTITY, "credentials_name": "app"}],
    "enterprises": None,
    "pools": [
        {
            "id": pool_row(1)["id"],
            "repo_id": "r-1",
            "repo_name": "Octo/Widgets",
            "provider_name": "cloud",
            "image": "ubuntu-22.04",
            "flavor": "m1.small",
            "os_type": "linux",
            "os_arch": "amd64",
            "tags": [{"id": "t-1", "name": "self-hosted"}],
            "enabled": True,
            "max_runners": 5,
            "min_idle_runners": 1,
            "runner_prefix": "garm",
            "runner_bootstrap_timeout": 20,
            "extra_specs": {"zone": "b", "nothing": None},
            "github-runner-group": "builders",
            "priority": 3,
            "endpoint": _ENDPOINT,
            "instances": [],
        }
    ],
    "scalesets": [
        {
            "id": 1,
            "name": "big",
            "repo_id": "r-1",
            "provider_name": "cloud",
            "image": "ubuntu-22.04",
            "flavor": "m1.small",
            "enabled": True,
            "max_runners": 7,
            "template_id": 2,
            "proxy_id": 1,
        }
    ],
    "templates": [
        {"id": 1, "name": "github_linux", "owner_id": "system"},
        {"id": 2, "name": "mine", "owner_id": "admin", "os_type": "linux", "forge_type": "github"},
    ],
    "templates/2": {
        "id": 2,
        "name": "mine",
        "owner_id": "admin",
        "os_type": "linux",
        "forge_type": "github",
        "data": base64.b64encode(TEMPLATE.encode()).decode(),
    },
    "proxies": [{"id": 1, "name": "out", "http_proxy": "http://proxy.example:3128", "username": "builder"}],
}
"""In the shape of GARM's answers; what an older GARM does not know is not here."""


@contextmanager
def api(answer: Any) -> Iterator[str]:
    """Serve GET on a port of this machine.

    Args:
        answer: takes path and headers, gives status and body.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path, dict(self.headers))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def recorded(path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    if headers.get("Authorization") != "Bearer garms-own":
        return 401, b'{"error": "Authentication failed"}'
    found = path.removeprefix("/api/v1/")
    return (200, json.dumps(ANSWERS[found]).encode()) if found in ANSWERS else (404, b'{"error": "Not Found"}')
