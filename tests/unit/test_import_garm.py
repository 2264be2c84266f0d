"""Moving a GARM over, from its database and from its API, to a coordinator's own admin service."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import grpc
import pytest

from coordinator.accounts.roles import Role
from coordinator.admin import AdminService
from coordinator.declare import CredentialsDeclaration, EntityDeclaration, PoolDeclaration
from hostler import tickets
from hostler.cli.main import run
from hostler.tickets import Kind
from protos.hostler.v1.admin_pb2_grpc import add_AdminServicer_to_server
from tests.samples.garm import (
    HOOK,
    KEY,
    PASSPHRASE,
    PAT,
    PROXY_PASSWORD,
    api,
    pool_row,
    recorded,
    write_database,
)
from tests.samples.http import open_site
from tests.samples.store import Sample, open_bare

Output = pytest.CaptureFixture[str]
POOL = pool_row(1)["id"]
LEFT_OUT = [
    "agent mode of organization acme: GARM's agent is not served",
    "pool 00000000-0000-4000-8000-000000000003: the coordinator's file has no [[provider]] 'lxd_local'",
    "pool 00000000-0000-4000-8000-000000000004: Invalid enum value 'arm'; allowed: amd64, arm64",
    "scale set far: the coordinator's file has no [[provider]] 'lxd_local'",
    (
        "template too-much: line 1: 'range' cannot be translated: "
        "declare one of its name in our language, and import again for what names it"
    ),
    "pool 00000000-0000-4000-8000-000000000007: its template too much is left out",
]


@pytest.fixture
async def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sample]:
    """An empty coordinator that `hostler` speaks to."""
    async with open_bare(tmp_path) as opened:
        providers = MagicMock(names=frozenset({"cloud"}))
        server = grpc.aio.server()
        add_AdminServicer_to_server(
            AdminService(opened.store, MagicMock(), MagicMock(), MagicMock(), providers, MagicMock()), server
        )
        monkeypatch.setenv("HOSTLER_COORDINATOR", f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        yield opened
        await server.stop(None)


async def _hostler(*arguments: object) -> int:
    return await asyncio.to_thread(run, [str(argument) for argument in arguments])


def _database(tmp_path: Path, **more: Any) -> list[object]:
    write_database(tmp_path / "garm.db", **more)
    (tmp_path / "passphrase").write_bytes(PASSPHRASE + b"\n")
    return ["import", "garm", "--database", tmp_path / "garm.db", "--passphrase-file", tmp_path / "passphrase"]


async def _declared(sample: Sample) -> dict[str, list[Any]]:
    return {kind: list(found.values()) for kind, found in (await sample.store.catalog.declared()).items()}


async def test_a_database_is_moved_over(sample: Sample, tmp_path: Path, capsys: Output) -> None:
    assert await _hostler(*_database(tmp_path), "--yes") == 5
    said = capsys.readouterr().out
    for reason in LEFT_OUT:
        assert f"! left out: {reason}\n" in said
    assert said.count("! left out") == len(LEFT_OUT)
    assert "pool 00000000-0000-4000-8000-000000000001: created\n" in said
    assert "! no runners: organization acme: runners of organizations cannot be registered" in said
    assert "! no runners: repository Octo/Widgets" not in said
    for secret in (PAT, HOOK, KEY.splitlines()[3], PROXY_PASSWORD):
        assert secret not in said
    found = await _declared(sample)
    assert [(one.name, one.kind, one.api_base_url) for one in found["endpoint"]] == [
        ("github.com", "github", "https://api.github.com"),
        ("my-gitea", "gitea", "https://gitea.example/api/v1"),
    ]
    secrets = {one.name: one for one in found["credentials"] if isinstance(one, CredentialsDeclaration)}
    assert (secrets["bot"].token, secrets["bot-gitea"].endpoint) == (PAT, "my-gitea")
    assert (secrets["app"].app_id, secrets["app"].installation_id, secrets["app"].private_key) == (7, 8, KEY.rstrip())
    entities = [one for table in ("repository", "organization", "enterprise", "forge_instance") for one in found[table]]
    assert [one.named.full for one in entities] == ["Octo/Widgets", "acme", "corp", "my-gitea"]
    for one in entities:
        assert isinstance(one, EntityDeclaration)
        assert one.webhook_secret == HOOK
    assert entities[0].balancer == "pack"
    pools = {one.name[-1]: one for one in found["pool"] if isinstance(one, PoolDeclaration)}
    assert sorted(pools) == ["1", "2", "5"]
    assert (pools["1"].repository, pools["2"].organization, pools["5"].forge_instance) == ("Octo/Widgets", "acme", True)
    assert (pools["1"].labels, pools["1"].priority, pools["1"].runner_prefix) == (["self-hosted"], 3, "garm")
    assert pools["1"].extra_specs == {"zone": "b", "nothing": None}
    assert pools["2"].template == "mine"
    (template,), (proxy,), (scale_set,) = found["template"], found["proxy"], found["scale_set"]
    assert 'TOKEN="{{ token }}"' in template.data
    assert (proxy.name, proxy.username, proxy.password) == ("out-there", "builder", PROXY_PASSWORD)
    assert (scale_set.name, scale_set.labels, scale_set.disable_update) == ("big", ["big"], True)
    assert (scale_set.repository, scale_set.template, scale_set.proxy) == ("Octo/Widgets", "mine", "out-there")


async def test_what_names_a_template_that_somebody_has_written_anew_is_taken_over(
    sample: Sample, tmp_path: Path
) -> None:
    asked = _database(tmp_path)
    await sample.apply('[[template]]\nname = "too-much"\ndata = "#!/bin/sh\\n"\n')
    assert await _hostler(*asked, "--yes") == 5
    pools = {one.name[-1]: one for one in (await _declared(sample))["pool"]}
    assert pools["7"].template == "too-much"


async def test_what_clashes_is_left_out_and_the_rest_is_taken_over(
    sample: Sample, tmp_path: Path, capsys: Output
) -> None:
    """The name is that of another forge's credentials here, which a document's place has not told before."""
    await sample.apply(
        '[[endpoint]]\nname = "ours"\nbase_url = "https://ours.example"\n'
        '[[credentials]]\nname = "bot"\nendpoint = "ours"\ntoken = "x"\n'
    )
    assert await _hostler(*_database(tmp_path), "--yes") == 5
    said = capsys.readouterr().out
    assert "! left out: credentials bot: the credentials 'bot' are of another endpoint" in said
    assert "! left out: repository Octo/Widgets: its credentials bot are left out" in said
    assert {one.named.full for one in (await _declared(sample))["organization"]} == {"acme"}


async def test_the_plan_alone_does_nothing_and_what_is_moved_twice_is_moved_once(
    sample: Sample, tmp_path: Path, capsys: Output
) -> None:
    asked = _database(tmp_path)
    assert await _hostler(*asked) == 4
    assert "nothing was done: give --yes to do it" in capsys.readouterr().out
    assert not any((await _declared(sample)).values())
    assert await _hostler(*asked, "--yes", "--disabled") == 5
    assert not any(pool.enabled for pool in (await _declared(sample))["pool"])
    before = await _declared(sample)
    assert await _hostler(*asked, "--yes", "--disabled") == 5
    assert ", 0 to change, 0 to remove" in capsys.readouterr().out
    assert await _declared(sample) == before


async def test_a_database_of_an_older_garm_has_fewer_tables(sample: Sample, tmp_path: Path) -> None:
    fewer = ("forge_instances", "gitea_credentials", "scale_sets", "templates", "proxies")
    assert await _hostler(*_database(tmp_path, drop=fewer), "--yes") == 5
    assert len((await _declared(sample))["pool"]) == 3


@pytest.mark.parametrize(
    ("passphrase", "drop", "code", "reason"),
    [
        (PASSPHRASE[::-1], (), 1, "the passphrase does not open what is sealed"),
        (b"short", (), 2, "the passphrase has 5 bytes"),
        (PASSPHRASE, ("github_endpoints",), 2, "no database of GARM 0.1.5 or later: it has no table github_endpoints"),
    ],
)
async def test_what_cannot_be_read_is_told(
    sample: Sample, tmp_path: Path, capsys: Output, passphrase: bytes, drop: tuple[str, ...], code: int, reason: str
) -> None:
    asked = _database(tmp_path, drop=drop)
    (tmp_path / "passphrase").write_bytes(passphrase)
    assert await _hostler(*asked, "--yes") == code
    assert reason in capsys.readouterr().err
    assert not any((await _declared(sample)).values())


async def test_a_running_garm_is_moved_over_with_the_secrets_that_it_hides(
    sample: Sample, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "key.pem").write_text(KEY)
    secrets = tmp_path / "secrets.toml"
    secrets.write_text(
        f'[credentials.bot]\ntoken = "{PAT}"\n'
        '[credentials.app]\napp_id = 7\ninstallation_id = 8\nprivate_key_file = "key.pem"\n'
        f'[proxy.out]\npassword = "{PROXY_PASSWORD}"\n'
        f'[repository."Octo/Widgets"]\nwebhook_secret = "{HOOK}"\n[organization.acme]\nwebhook_secret = "{HOOK}"\n'
    )
    with api(recorded) as url:
        asked = ["import", "garm", "--url", url, "--token", "garms-own"]
        assert await _hostler(*asked, "--yes") == 2
        assert '[credentials."bot"] token is not known' in capsys.readouterr().err
        assert await _hostler(*asked, "--yes", "--secrets-file", secrets) == 5, "an organization gets no runners yet"
        said = capsys.readouterr().out
        assert await _hostler(*asked, "--yes") == 5, "what is known already is not asked for"
    assert "! left out" not in said
    found = await _declared(sample)
    assert {one.name: one.secret for one in found["credentials"]} == {"bot": PAT, "app": KEY.rstrip()}
    assert [(one.name, one.password) for one in found["proxy"]] == [("out", PROXY_PASSWORD)]
    assert [(one.name, one.template, one.proxy, one.max_runners) for one in found["scale_set"]] == [
        ("big", "mine", "out", 7)
    ]
    (pool,) = found["pool"]
    assert (pool.name, pool.runner_group, pool.extra_specs) == (POOL, "builders", {"zone": "b", "nothing": None})


async def test_in_a_terminal_secrets_are_asked_for_and_nothing_is_done_without_a_yes(
    sample: Sample, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key.pem").write_text(KEY)
    asked: list[str] = []
    said = iter([PAT, "7", "8", f"@{tmp_path}/key.pem", HOOK, HOOK, PROXY_PASSWORD] * 2)
    answers = iter(["n", "y"])

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return next(said)

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("hostler.cli.importing.getpass", answer)
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    with api(recorded) as url:
        assert await _hostler("import", "garm", "--url", url, "--token", "garms-own") == 4
        assert not any((await _declared(sample)).values())
        assert await _hostler("import", "garm", "--url", url, "--token", "garms-own") == 5
    assert [prompt.partition(" (")[0] for prompt in asked[:7]] == [
        '[credentials."bot"] token',
        '[credentials."app"] app_id',
        '[credentials."app"] installation_id',
        '[credentials."app"] private_key',
        '[repository."Octo/Widgets"] webhook_secret',
        '[organization."acme"] webhook_secret',
        '[proxy."out"] password',
    ]
    assert PAT not in capsys.readouterr().out
    assert {one.name: one.app_id for one in (await _declared(sample))["credentials"]} == {"bot": 0, "app": 7}


@pytest.mark.usefixtures("sample")
async def test_a_token_that_garm_does_not_take_is_told(capsys: Output) -> None:
    with api(recorded) as url:
        assert await _hostler("import", "garm", "--url", url, "--token", "wrong") == 1
    assert "answers 401 (give the token of a user that is an administrator there)" in capsys.readouterr().err


@pytest.mark.usefixtures("sample")
async def test_who_is_pointed_elsewhere_gets_no_token(capsys: Output) -> None:
    with api(lambda *_: (302, b"")) as url:
        assert await _hostler("import", "garm", "--url", url, "--token", "garms-own") == 1
    assert "answers 302" in capsys.readouterr().err


async def test_a_coordinators_own_rest_api_is_read_like_a_garms(sample: Sample, tmp_path: Path, capsys: Output) -> None:
    """It serves what GARM's clients know, so one coordinator's fleet can be moved to another."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    secrets = tmp_path / "secrets.toml"
    secrets.write_text(
        f'[credentials.token]\ntoken = "{PAT}"\n[repository."Octo/Widgets"]\nwebhook_secret = "{HOOK}"\n'
    )
    token = tickets.ticket(Kind.ADMIN, b"sixteen bytes...")
    async with open_site(theirs) as site:
        await site.sample.apply(
            '[[pool]]\nname = "far"\nendpoint = "forge"\nrepository = "Octo/Widgets"\nprovider = "cloud"\n'
            'image = "ami-1"\nflavor = "m9.huge"\nlabels = ["gpu"]\n'
        )
        end = site.sample.clock().replace(year=2999)
        await site.store.admin_tokens.keep("mover", tickets.digest(token), end, Role.OPERATOR)
        answer = partial(_of_site, site, asyncio.get_running_loop())
        with api(answer) as url:
            asked = ["import", "garm", "--url", url, "--token", token, "--secrets-file", secrets]
            assert await _hostler(*asked, "--yes") == 5
    assert "pool" in capsys.readouterr().out
    found = await _declared(sample)
    assert [one.name for one in found["endpoint"]] == ["forge"]
    assert [one.webhook_secret for one in found["repository"]] == [HOOK]
    assert [(one.image, one.flavor, one.labels) for one in found["pool"]] == [("ami-1", "m9.huge", ["gpu"])]


def _of_site(site: Any, loop: asyncio.AbstractEventLoop, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    sent = {"Authorization": headers["Authorization"]}
    answer = asyncio.run_coroutine_threadsafe(site.client.get(path, headers=sent), loop).result()
    return answer.status_code, answer.content
