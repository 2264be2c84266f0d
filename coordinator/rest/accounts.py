"""First run, login, users, tokens and the audit log. Users, tokens and audit are paths of our own."""

import secrets
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import msgspec
from litestar import delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody

from coordinator.accounts import chain
from coordinator.accounts.accounts import Accounts
from coordinator.accounts.roles import Actor, Role, acting
from coordinator.declare_forge import EndpointDeclaration
from coordinator.http.errors import AnyRequest, ApiError
from coordinator.rest.guard import OPEN, needs
from coordinator.rest.view import declared
from coordinator.store.admin_tokens import AdminToken
from coordinator.store.store import Store
from coordinator.store.users import User
from hostler import config, tickets
from hostler.tickets import Kind

_MOST_ENTRIES: Final = 1000


class NewUserParams(msgspec.Struct, frozen=True):
    username: str = ""
    email: str = ""
    full_name: str = ""
    password: str = ""


class CreateUserParams(NewUserParams, frozen=True):
    role: Role = Role.VIEWER


class UpdateUserParams(msgspec.Struct, frozen=True):
    """What is left out stays."""

    role: Role | None = None
    enabled: bool | None = None
    password: str | None = None


class PasswordLoginParams(msgspec.Struct, frozen=True):
    username: str = ""
    password: str = ""


class JWTResponse(msgspec.Struct, frozen=True):
    token: str


class UserBody(msgspec.Struct, frozen=True):
    id: str
    username: str
    email: str
    full_name: str
    enabled: bool
    is_admin: bool
    created_at: datetime
    updated_at: datetime
    role: Role  # an addition


class CreateTokenParams(msgspec.Struct, frozen=True):
    name: str
    role: Role = Role.VIEWER
    valid_days: Annotated[int, msgspec.Meta(ge=1, le=3650)] = 90


class TokenBody(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    role: Role
    created_at: datetime
    expires_at: datetime
    token: str = ""  # shown once, when it is made


class AuditEntry(msgspec.Struct, frozen=True):
    number: int
    at: datetime
    actor: str
    via: str
    action: str
    target: str
    before: dict[str, Any]
    after: dict[str, Any]
    mac: str


def routes(store: Store, accounts: Accounts) -> list[HTTPRouteHandler]:
    return [*_sessions(store, accounts), *_users(store, accounts), *_tokens(store), *_audit(store)]


def _sessions(store: Store, accounts: Accounts) -> list[HTTPRouteHandler]:
    @post("/first-run", status_code=200, opt=OPEN, operation_id="FirstRun")
    async def first_run(data: JSONBody[NewUserParams]) -> UserBody:
        """Make the administrator. Once."""
        acting.set(Actor("first-run", Role.ADMIN, "rest"))
        made = await accounts.first_run(data.username, data.email, data.full_name, data.password)
        # Clients of GARM name this endpoint without having made it.
        if not (await declared(store)).there.endpoints:
            await store.edits.add(EndpointDeclaration(_GITHUB, upload_base_url=_UPLOADS), frozenset())
        return user_body(made)

    @post("/auth/login", status_code=200, opt=OPEN, operation_id="Login")
    async def login(request: AnyRequest, data: JSONBody[PasswordLoginParams]) -> JWTResponse:
        """A token for 24 hours."""
        address = request.client.host if request.client else ""
        return JWTResponse(await accounts.login(data.username, data.password, address))

    @get("/metrics-token", operation_id="GetMetricsToken", opt=needs(Role.ADMIN))
    async def metrics_token() -> JWTResponse:
        """A token that can read metrics and nothing else."""
        return JWTResponse(accounts.metrics_token())

    return [first_run, login, metrics_token]


_GITHUB: Final = "github.com"
_UPLOADS: Final = "https://uploads.github.com"


def _users(store: Store, accounts: Accounts) -> list[HTTPRouteHandler]:
    admin = needs(Role.ADMIN)

    @get("/users", operation_id="ListUsers", opt=admin)
    async def list_users() -> list[UserBody]:
        return [user_body(user) for user in await store.users.all()]

    @post("/users", status_code=200, operation_id="CreateUser")
    async def create_user(data: JSONBody[CreateUserParams]) -> UserBody:
        return user_body(await accounts.add(data.username, data.email, data.full_name, data.role, data.password))

    @put("/users/{user_id:str}", operation_id="UpdateUser")
    async def update_user(user_id: FromPath[str], data: JSONBody[UpdateUserParams]) -> UserBody:
        """Change the role, the password, or whether the user may log in. Their sessions end."""
        changed = await accounts.change(user_id, role=data.role, enabled=data.enabled, password=data.password)
        return user_body(changed)

    @delete("/users/{user_id:str}", status_code=200, operation_id="DeleteUser")
    async def delete_user(user_id: FromPath[str]) -> None:
        await store.users.remove(user_id)

    return [list_users, create_user, update_user, delete_user]


def _tokens(store: Store) -> list[HTTPRouteHandler]:
    admin = needs(Role.ADMIN)

    @get("/tokens", operation_id="ListTokens", opt=admin)
    async def list_tokens() -> list[TokenBody]:
        return [_token(token) for token in await store.admin_tokens.all()]

    @post("/tokens", status_code=200, operation_id="CreateToken")
    async def create_token(data: JSONBody[CreateTokenParams]) -> TokenBody:
        """Make a token for a program, good for this API and for the admin client. It is shown this once."""
        try:
            config.check_key("name", lambda: config.host_name(data.name))
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        token = tickets.ticket(Kind.ADMIN, secrets.token_bytes(tickets.SECRET_BYTES))
        now = store.now()
        expires_at = now + timedelta(days=data.valid_days)
        await store.admin_tokens.keep(data.name, tickets.digest(token), expires_at, data.role)
        return TokenBody(data.name, data.role, now, expires_at, token)

    @delete("/tokens/{name:str}", status_code=200, operation_id="RevokeToken")
    async def revoke_token(name: FromPath[str]) -> None:
        await store.admin_tokens.revoke(name)

    return [list_tokens, create_token, revoke_token]


def _audit(store: Store) -> list[HTTPRouteHandler]:
    admin = needs(Role.ADMIN)

    @get("/audit", operation_id="ListAudit", opt=admin)
    async def list_audit(before: FromQuery[int | None] = None, limit: FromQuery[int] = 100) -> list[AuditEntry]:
        """What was changed and by whom, the newest first; `before`: only entries with smaller numbers."""
        if not 1 <= limit <= _MOST_ENTRIES:
            raise ApiError(400, f"limit: must be 1 to {_MOST_ENTRIES}")
        if before is not None and not 1 <= before < 2**63:
            raise ApiError(400, "before: must be the number of an entry")
        return [_entry(entry) for entry in await store.audit.page(before, limit)]

    @get("/audit/verify", operation_id="VerifyAudit", opt=admin)
    async def verify_audit() -> chain.Verdict:
        """Whether every entry is as it was written. `fault` is empty when it is so."""
        return await store.audit.verify()

    return [list_audit, verify_audit]


def user_body(user: User) -> UserBody:
    return UserBody(
        id=user.id,
        username=user.username,
        email=user.email,
        full_name=user.full_name,
        enabled=user.enabled,
        is_admin=user.role is Role.ADMIN,
        created_at=user.created_at,
        updated_at=user.changed_at,
        role=user.role,
    )


def _token(token: AdminToken) -> TokenBody:
    return TokenBody(token.name, token.role, token.made_at, token.expires_at)


def _entry(entry: chain.Entry) -> AuditEntry:
    return AuditEntry(
        number=entry.number,
        at=entry.at,
        actor=entry.actor,
        via=entry.via,
        action=entry.action,
        target=entry.target,
        before=msgspec.json.decode(entry.before),
        after=msgspec.json.decode(entry.after),
        mac=entry.mac,
    )
