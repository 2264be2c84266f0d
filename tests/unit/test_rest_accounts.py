"""First run, login, roles, tokens and the audit log over HTTP."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from coordinator.store.signing import Purpose
from tests.samples.http import Site, open_site

PASSWORD = "correct-Horse-battery-9-staple"
ADA = {"username": "ada", "email": "ada@example.org", "full_name": "Ada", "password": PASSWORD}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as opened:
        yield opened


async def _call(site: Site, method: str, path: str, token: str = "", json: Any = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return await site.client.request(method, f"/api/v1{path}", headers=headers, json=json)


async def _login(site: Site, username: str = "ada", password: str = PASSWORD) -> httpx.Response:
    return await _call(site, "POST", "/auth/login", json={"username": username, "password": password})


async def _admin(site: Site) -> str:
    assert (await _call(site, "POST", "/first-run", json=ADA)).status_code == 200
    return str((await _login(site)).json()["token"])


async def _user(site: Site, admin: str, role: str) -> str:
    user = ADA | {"username": role, "role": role}
    assert (await _call(site, "POST", "/users", admin, user)).status_code == 200
    return str((await _login(site, role)).json()["token"])


@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_first_run_makes_the_administrator_once(site: Site, slash: str) -> None:
    answer = await _call(site, "GET", "/users")
    assert (answer.status_code, answer.json()) == (409, {"error": "init_required", "details": "Missing superuser"})
    made = await _call(site, "POST", f"/first-run{slash}", json=ADA)
    assert made.status_code == 200
    told = made.json()
    assert (told["username"], told["is_admin"], told["enabled"], told["role"]) == ("ada", True, True, "admin")
    assert not {"password", "password_hash"} & set(told)
    again = await _call(site, "POST", f"/first-run{slash}", json=ADA | {"username": "eve"})
    assert (again.status_code, again.json()["error"]) == (409, "Conflict")
    assert (await _login(site, "eve")).status_code == 401


async def test_who_made_the_first_administrator_is_not_said_to_be_of_this_machine(site: Site) -> None:
    token = await _admin(site)
    entries = (await _call(site, "GET", "/audit", token)).json()
    made = next(entry for entry in entries if entry["target"] == "user ada")
    assert (made["actor"], made["via"]) == ("first-run", "rest")


async def test_a_fresh_installation_has_the_endpoint_that_garms_clients_name(site: Site) -> None:
    await site.sample.plan('[[flavor]]\nname = "alone"\nvcpus = 1\nmemory_mib = 64\ndisk_gib = 1', prune=True)
    token = await _admin(site)
    (made,) = (await _call(site, "GET", "/github/endpoints", token)).json()
    assert (made["name"], made["base_url"]) == ("github.com", "https://github.com")
    assert (made["api_base_url"], made["upload_base_url"]) == ("https://api.github.com", "https://uploads.github.com")
    assert (await _call(site, "DELETE", "/github/endpoints/github.com", token)).status_code == 200


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"password": "password1"}, "too weak"),
        ({"password": "ada@example.org"}, "too weak"),
        ({"password": ""}, "1 to 72"),
        ({"password": "x" * 73}, "1 to 72"),
        ({"username": ""}, "username"),
        ({"username": "a b"}, "username"),
        ({"email": "nobody"}, "email"),
        ({"full_name": "x" * 201}, "full_name"),
    ],
)
async def test_a_first_user_that_is_not_good_is_refused(site: Site, change: dict[str, str], said: str) -> None:
    answer = await _call(site, "POST", "/first-run", json=ADA | change)
    assert (answer.status_code, answer.json()["error"]) == (400, "Bad Request")
    assert said in answer.json()["details"]
    assert not await site.store.users.all()


async def test_a_login_gives_a_token_that_opens_for_a_day(site: Site) -> None:
    token = await _admin(site)
    claims = jwt.decode(
        token, site.store.signing_keys[Purpose.ADMIN], ["HS256"], {"verify_exp": False}, audience="hostler:admin"
    )
    assert {"user", "token_id", "full_name", "is_admin", "generation", "exp", "aud"} <= set(claims)
    assert (await _call(site, "GET", "/users", token)).status_code == 200
    site.sample.clock.move(hours=24)
    late = await _call(site, "GET", "/users", token)
    assert (late.status_code, late.json()["error"]) == (401, "Not Authorized")
    assert "expired" in late.json()["details"]


@pytest.mark.parametrize("header", ["", "Basic YTpi", "Bearer", "Bearer x", "Bearer hostler-admin_zzz", "Bearer \x7f"])
async def test_what_is_no_token_opens_nothing(site: Site, header: str) -> None:
    await _admin(site)
    answer = await site.client.get("/api/v1/users", headers={"Authorization": header} if header else {})
    assert (answer.status_code, answer.json()["error"]) == (401, "Not Authorized")


async def test_tokens_of_one_kind_do_not_open_what_is_for_another(site: Site) -> None:
    admin = await _admin(site)
    metrics = (await _call(site, "GET", "/metrics-token", admin)).json()["token"]
    instance = await site.token(await site.sample.instance())
    for foreign in (metrics, instance):
        assert (await _call(site, "GET", "/users", foreign)).status_code == 401
    site.accounts._sessions.check_for_metrics(metrics)
    keys = {site.store.instance_token_key, *site.store.signing_keys.values()}
    assert len(keys) == 4


async def test_guesses_are_limited_by_address_and_forgotten_after_a_minute(site: Site) -> None:
    await _admin(site)
    assert [(await _login(site, password="wrong")).status_code for _ in range(11)] == [401] * 10 + [429]
    right = await _login(site)
    assert (right.status_code, right.headers["retry-after"]) == (429, "60")
    assert (
        "logins from this address failed within a minute (wait a minute, and check the user" in right.json()["details"]
    )
    site.monotonic += 61
    assert (await _login(site)).status_code == 200


async def test_right_logins_are_never_too_many(site: Site) -> None:
    await _admin(site)
    assert {(await _login(site)).status_code for _ in range(40)} == {200}


async def test_an_unknown_user_is_refused_as_one_with_a_wrong_password_is(site: Site) -> None:
    await _admin(site)
    wrong, unknown = await _login(site, password="wrong"), await _login(site, "nobody")
    assert (wrong.status_code, wrong.json()) == (unknown.status_code, unknown.json())


@pytest.mark.parametrize(
    ("method", "path", "body", "allowed"),
    [
        ("GET", "/users", None, {"admin"}),
        ("POST", "/users", {}, {"admin"}),
        ("GET", "/tokens", None, {"admin"}),
        ("POST", "/tokens", {"name": "x"}, {"admin"}),
        ("DELETE", "/tokens/nothing", None, {"admin"}),
        ("GET", "/audit", None, {"admin"}),
        ("GET", "/audit/verify", None, {"admin"}),
        ("GET", "/metrics-token", None, {"admin"}),
    ],
)
async def test_each_role_may_do_its_own_and_no_more(
    site: Site, method: str, path: str, body: Any, allowed: set[str]
) -> None:
    tokens = {"admin": await _admin(site)}
    tokens |= {role: await _user(site, tokens["admin"], role) for role in ("operator", "viewer")}
    for role, token in tokens.items():
        status = (await _call(site, method, path, token, body)).status_code
        assert (status != 403) == (role in allowed), role


async def test_a_change_of_a_user_ends_their_sessions(site: Site) -> None:
    admin = await _admin(site)
    viewer = await _user(site, admin, "viewer")
    users = {user["username"]: user["id"] for user in (await _call(site, "GET", "/users", admin)).json()}
    path = f"/users/{users['viewer']}"
    assert (await _call(site, "GET", "/users", viewer)).status_code == 403
    assert (await _call(site, "PUT", path, admin, {"password": PASSWORD + "!"})).status_code == 200
    assert (await _call(site, "GET", "/users", viewer)).status_code == 401
    assert (await _login(site, "viewer")).status_code == 401
    assert (await _login(site, "viewer", PASSWORD + "!")).status_code == 200
    assert (await _call(site, "PUT", path, admin, {"enabled": False})).status_code == 200
    assert (await _login(site, "viewer", PASSWORD + "!")).status_code == 401
    assert (await _call(site, "DELETE", path, admin)).status_code == 200
    assert (await _call(site, "DELETE", path, admin)).status_code == 404


async def test_the_last_administrator_stays(site: Site) -> None:
    admin = await _admin(site)
    me = (await _call(site, "GET", "/users", admin)).json()[0]["id"]
    for method, body in (("DELETE", None), ("PUT", {"role": "viewer"}), ("PUT", {"enabled": False})):
        answer = await _call(site, method, f"/users/{me}", admin, body)
        assert (answer.status_code, answer.json()["error"]) == (409, "Conflict")
    assert (await _call(site, "GET", "/users", admin)).status_code == 200


async def test_tokens_for_programs_open_by_their_role_until_they_are_revoked_or_expire(site: Site) -> None:
    admin = await _admin(site)
    made = await _call(site, "POST", "/tokens", admin, {"name": "ci", "role": "admin", "valid_days": 2})
    token = made.json()["token"]
    again = await _call(site, "POST", "/tokens", admin, {"name": "ci"})
    assert (again.status_code, again.json()["error"]) == (409, "Conflict")
    listed = (await _call(site, "GET", "/tokens", token)).json()
    assert [(one["name"], one["role"], "token" in one) for one in listed] == [("ci", "admin", False)]
    viewer = (await _call(site, "POST", "/tokens", admin, {"name": "look"})).json()["token"]
    assert (await _call(site, "GET", "/tokens", viewer)).status_code == 403
    assert (await _call(site, "DELETE", "/tokens/look", token)).status_code == 200
    assert (await _call(site, "GET", "/tokens", viewer)).status_code == 401
    site.sample.clock.move(days=2)
    assert (await _call(site, "GET", "/tokens", token)).status_code == 401


async def test_the_log_names_who_changed_what_and_holds_no_password(site: Site) -> None:
    admin = await _admin(site)
    await _user(site, admin, "viewer")
    entries = (await _call(site, "GET", "/audit?limit=1", admin)).json()
    assert [(one["actor"], one["via"], one["action"], one["target"]) for one in entries] == [
        ("user:ada", "rest", "created", "user viewer")
    ]
    assert entries[0]["after"]["role"] == "viewer"
    older = (await _call(site, "GET", f"/audit?before={entries[0]['number']}", admin)).json()
    assert [one["target"] for one in older][:1] == ["user ada"]
    assert PASSWORD not in str(older)
    assert (await _call(site, "GET", "/audit/verify", admin)).json() == {"entries": entries[0]["number"], "fault": ""}
    for bad in ("limit=0", "limit=1001", "before=0", "before=x"):
        assert (await _call(site, "GET", f"/audit?{bad}", admin)).status_code == 400


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"username": 1}', b"\xff"])
async def test_a_body_that_is_none_is_a_bad_request(site: Site, content: bytes) -> None:
    for path in ("/first-run", "/auth/login"):
        answer = await site.client.post(f"/api/v1{path}", content=content)
        assert (answer.status_code, set(answer.json())) == (400, {"error", "details"})


async def test_the_document_names_every_path_and_nothing_of_other_listeners(site: Site) -> None:
    document = (await site.client.get("/api/v1/openapi.json")).json()
    paths = set(document["paths"])
    assert {"/api/v1/first-run", "/api/v1/auth/login", "/api/v1/users/{user_id}", "/api/v1/audit"} <= paths
    assert all(path.startswith("/api/v1/") for path in paths)
    assert (await site.machine.get("/api/v1/openapi.json")).status_code == 404
    assert (await site.machine.post("/api/v1/auth/login", json={})).status_code == 404
