"""The scripts for Windows, which nothing here can run: their syntax, their order, and each call that they make."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import tree_sitter
import tree_sitter_powershell

from coordinator.domain.instance import RunnerStatus
from coordinator.runner_api import scripts
from coordinator.runner_api.outside import Outside
from providers.exec.spec import ProxyConfig, Tool
from tests.samples.domain import forge_access, instance, pool
from tests.samples.forges import ca_certificate
from tests.samples.runner_site import FILES, RunnerSite, open_runner_site
from tests.unit.test_guests_of_garm import PowerShell

TOKEN = "planted.token-of_the.machine"
WHERE = scripts.urls("http://coordinator.example:9997/")
WINDOWS = pool(os_type="windows")
TOOL = Tool("win", "x64", "https://dl.example/runner.zip", "runner.zip", "planted-download-token", "ab" * 32)
EVIL = "it\u2019s '$(Remove-Item C:\\)' `\"; exit"
PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))


def install(tools: list[Tool] | None, token: str = TOKEN) -> str:
    return scripts.install_script(instance(), WINDOWS, forge_access(), WHERE, token, tools)


def wrapper(token: str = TOKEN, outside: Outside = scripts.DIRECT) -> str:
    return scripts.wrapper(instance(), WINDOWS, WHERE, token, outside)


RENDERED = {
    "wrapper": wrapper(),
    "wrapper of evil values": wrapper(EVIL),
    "wrapper behind a proxy": wrapper(outside=Outside(ProxyConfig(f"http://{EVIL}", "http://p"), ca_certificate() * 2)),
    "with a download": install([TOOL]),
    "with a download without checksum": install([Tool("win", "x64", "https://dl.example/r.zip")]),
    "without a download": install([]),
    "with a forge that is away": install(None),
    "of evil values": install([Tool("win", "x64", f"https://dl/{EVIL}", EVIL, EVIL, EVIL)], EVIL),
}


def nodes(text: str) -> Iterator[tree_sitter.Node]:
    waiting = [PARSER.parse(text.encode()).root_node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += reversed(node.children)


def told(node: tree_sitter.Node) -> str:
    return (node.text or b"").decode()


def commands(text: str) -> list[str]:
    return [told(node) for node in nodes(text) if node.type == "command"]


def test_what_is_no_powershell_is_noticed() -> None:
    assert any(node.is_error for node in nodes("try { $x = @{ a = 1 \n foo"))


@pytest.mark.parametrize("which", RENDERED)
def test_every_script_is_one_that_powershell_can_read(which: str) -> None:
    assert [told(node) for node in nodes(RENDERED[which]) if node.is_error or node.is_missing] == []


@pytest.mark.parametrize("which", RENDERED)
def test_no_script_traces_itself_or_repeats_the_token(which: str) -> None:
    script = RENDERED[which]
    assert not [one for one in commands(script) if one.startswith(("Set-PSDebug", "Start-Transcript"))]
    shown = [one for one in commands(script) if one.startswith("Write-")]
    assert not [one for one in shown if "$token" in one or "$headers" in one or "$password" in one]
    if "evil" not in which:
        assert [line for line in script.splitlines() if TOKEN in line] == [f"$token = '{TOKEN}'"]


def test_values_stay_within_their_quotes() -> None:
    literals = [told(node) for node in nodes(RENDERED["of evil values"]) if node.type == "verbatim_string_characters"]
    assert len([one for one in literals if "Remove-Item" in one]) == 4  # token, address, download's token, checksum
    assert not [one for one in commands(RENDERED["of evil values"]) if one.startswith("Remove-Item C:")]


def test_user_data_is_what_cloudbase_init_runs_and_no_template_of_go() -> None:
    data = scripts.user_data(instance(), WINDOWS, WHERE, TOKEN).decode()
    assert data == RENDERED["wrapper"]
    assert data.startswith("#ps1_sysnative\n")
    assert "{{" not in data


def test_a_program_is_checked_before_it_is_unpacked_and_the_runner_starts_last() -> None:
    script = RENDERED["with a download"]
    assert script.index("Get-FileHash") < script.index("ExtractToDirectory")
    order = [
        script.index(f"\n{indent}{step}")
        for indent, step in [
            ("  ", "$all = Send-Json"),
            ("  ", "Register-Runner $password"),
            ("  ", "Send-Status 'idle'"),
            ("", "Start-ScheduledTask"),
        ]
    ]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("with a download without checksum", "the forge gave no checksum"),
        ("without a download", "the forge offers none for windows on amd64"),
        ("with a forge that is away", "the forge is away"),
    ],
)
def test_no_unchecked_program_is_unpacked(which: str, said: str) -> None:
    script = RENDERED[which]
    thrown = script.index("throw", script.index("function Install-Runner"))
    assert said in script[thrown : script.index("\n", thrown)]
    assert "ExtractToDirectory" not in script[:thrown]


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[RunnerSite]:
    async with open_runner_site(tmp_path) as opened:
        yield opened


async def test_each_call_of_the_scripts_is_answered(runner: RunnerSite) -> None:
    powershell = PowerShell(runner)
    kind, _ = await powershell.get("install-script")
    assert kind.startswith("text/plain")  # else PowerShell has bytes, and makes no script of them
    as_json = "application/json; charset=utf-8"
    assert (
        await powershell.post("status", {"status": "installing", "message": "downloading the runner"}, as_json) == 200
    )
    told_of = {"os_name": "Microsoft Windows Server 2022 Datacenter", "os_version": "10.0.20348"}
    status, kind, content = await powershell.send_json(f"{runner.where.metadata}/runner", told_of, as_json)
    assert (status, kind) == (200, "application/json")  # else Invoke-RestMethod gives no object
    assert json.loads(content)["files"].keys() == FILES.keys()
    assert await powershell.post("status", {"status": "idle", "message": "runner is up"}, as_json) == 200
    assert (await runner.now()).runner_status is RunnerStatus.IDLE


def test_the_calls_are_those_of_the_test_above() -> None:
    called = [one for which in ("wrapper", "with a download") for one in commands(RENDERED[which])]
    asked = {part for one in called for part in one.split() if part.startswith(('"$metadata/', '"$callback/'))}
    assert asked == {'"$metadata/install-script"', '"$metadata/runner"', '"$callback/status"'}
