"""The scripts that start a runner: valid, quoted, careful with the token, and unwilling to run an unchecked program."""

import base64
import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from coordinator.runner_api import scripts
from coordinator.runner_api.outside import Outside
from coordinator.runner_api.scripts import Urls
from providers.exec.spec import ProxyConfig, Tool
from tests.samples.bundle import bundle
from tests.samples.domain import forge_access, instance, pool
from tests.samples.forges import ca_certificate

WHERE = scripts.urls("http://coordinator.example:9997/")
TOKEN = "planted.token-of_the.machine"
ARCHIVE = b"an archive"
TOOL = Tool(
    os="linux",
    architecture="x64",
    download_url="https://dl.example/runner.tar.gz",
    sha256_checksum=hashlib.sha256(ARCHIVE).hexdigest(),
)
EVIL = 'it\'s "$(touch /tmp/never)" `id` \\ %s'

FAKE = """#!/bin/sh
printf '%s' "${0##*/}" >> "$FAKES/calls"
for one in "$@"; do printf ' <%s>' "$one" >> "$FAKES/calls"; done
echo >> "$FAKES/calls"
"""
FAKES = {
    "curl": """
out=
while [ $# -gt 0 ]; do
  case $1 in --output) out=$2; shift ;; --config) /bin/cat >> "$FAKES/stdin" ;; esac
  url=$1
  shift
done
case $url in
  */install-script) printf '%s' "$INSTALL" > "$out" ;;
  *.tar.gz) printf '%s' "$ARCHIVE" > "$out" ;;
  */metadata/runner) /bin/cp "$FAKES/all.tar" "$out" ;;
  *) [ -z "$out" ] || [ "$out" = /dev/null ] || echo content > "$out" ;;
esac
exit "${CURL_EXIT:-0}"
""",
    "id": 'if [ "$1" = -u ]; then echo "${IS:-0}"; fi',
    "tar": """
[ "$1" != -xf ] || exec /bin/tar "$@"
folder=$4
/bin/mkdir -p "$folder/bin"
echo "#!/bin/sh" > "$folder/bin/installdependencies.sh"
/bin/chmod +x "$folder/bin/installdependencies.sh"
""",
    "mktemp": '/usr/bin/mktemp -p "$FAKES/tmp" "$@"',
    "sha256sum": '/usr/bin/sha256sum "$@"',
    "rm": '/bin/rm "$@"',
    "sed": '/bin/sed "$@"',
    "sleep": "",
    "sh": '/bin/sh "$@"',
    "mkdir": '/bin/mkdir "$@"',
    "install": "",
    "chown": "",
    "useradd": "",
    "sudo": 'case "$1" in --*) shift ;; esac\n"$@"',
    "systemctl": "",
}


class Machine:
    """A script runs here among commands that only note that they were called."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "bin").mkdir()
        (directory / "tmp").mkdir()
        (directory / "all.tar").write_bytes(bundle().as_tar())
        for name, text in FAKES.items():
            fake = directory / "bin" / name
            fake.write_text(FAKE + text + "\n")
            fake.chmod(0o755)

    def has_runner(self) -> None:
        folder = self.directory / "home" / "actions-runner"
        folder.mkdir(parents=True)
        (folder / "run.sh").write_text("")
        (folder / "run.sh").chmod(0o755)

    def run(self, script: str, **more: str) -> "subprocess.CompletedProcess[str]":
        assert script.count("\nhome=/home/runner\n") <= 1
        script = script.replace("\nhome=/home/runner\n", f"\nhome={self.directory}/home\n")
        environment = {
            "PATH": f"{self.directory}/bin",
            "FAKES": str(self.directory),
            "ARCHIVE": ARCHIVE.decode(),
            **more,
        }
        return subprocess.run(
            ["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, timeout=30, check=False
        )

    @property
    def calls(self) -> list[str]:
        file = self.directory / "calls"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def told_curl(self) -> str:
        file = self.directory / "stdin"
        return file.read_text() if file.exists() else ""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def install(
    tools: list[Tool] | None, *, where: Urls = WHERE, token: str = TOKEN, outside: Outside = scripts.DIRECT
) -> str:
    return scripts.install_script(instance(), pool(), forge_access(), where, token, tools, outside=outside)


def wrapper(where: Urls = WHERE, token: str = TOKEN) -> str:
    return scripts.wrapper(instance(), pool(), where, token)


EVIL_URLS = Urls(metadata=f"http://m/{EVIL}", callback=f"http://c/{EVIL}")
EVIL_TOOL = Tool(os="linux", architecture="x64", download_url=f"http://d/{EVIL}", sha256_checksum=EVIL)
BEHIND = Outside(ProxyConfig(http_proxy=f"http://{EVIL}", no_proxy=EVIL), ca_certificate())
RENDERED = {
    "wrapper": wrapper(),
    "wrapper behind a proxy": scripts.wrapper(instance(), pool(), WHERE, TOKEN, BEHIND),
    "behind a proxy": install([TOOL], outside=BEHIND),
    "wrapper of evil values": wrapper(EVIL_URLS, EVIL),
    "with a download": install([TOOL]),
    "without a download": install([]),
    "with a download without checksum": install([Tool("linux", "x64", "https://dl.example/r.tar.gz")]),
    "of evil values": install([EVIL_TOOL], where=EVIL_URLS, token=EVIL),
}


@pytest.mark.parametrize("which", RENDERED)
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_every_script_is_one_that_shells_can_read(which: str, shell: str) -> None:
    checked = subprocess.run([shell, "-n"], input=RENDERED[which], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("which", RENDERED)
def test_no_script_traces_itself_or_repeats_the_token(which: str) -> None:
    lines = RENDERED[which].splitlines()
    assert not [line for line in lines if re.match(r"\s*set\s+(-\w*x|-o\s+xtrace)", line)]
    if "evil" not in which:
        assert [line for line in lines if TOKEN in line] == [f"token='{TOKEN}'"]


def test_values_are_quoted_whatever_they_hold(machine: Machine) -> None:
    for name, value in (("token", EVIL), ("metadata", EVIL_URLS.metadata), ("callback", EVIL_URLS.callback)):
        for script in (RENDERED["wrapper of evil values"], RENDERED["of evil values"]):
            assignments = script[
                script.index("\ntoken=") : script.index("\nhome=" if "\nhome=" in script else "\n#", 120)
            ]
            assert machine.run(f"{assignments}\nprintf '%s' \"${name}\"").stdout == value
    assert not Path("/tmp/never").exists()


def _quiet_about_the_token(machine: Machine, ended: "subprocess.CompletedProcess[str]") -> None:
    assert TOKEN not in ended.stdout + ended.stderr
    assert not [call for call in machine.calls if TOKEN in call]
    assert f'header = "Authorization: Bearer {TOKEN}"' in machine.told_curl


def test_an_image_with_the_runner_needs_no_download(machine: Machine) -> None:
    machine.has_runner()
    ended = machine.run(install([TOOL]))
    assert (ended.returncode, ended.stderr) == (0, "")
    _quiet_about_the_token(machine, ended)
    calls = "\n".join(machine.calls)
    assert "dl.example" not in calls
    assert calls.count(f"<{WHERE.metadata}/runner>") == 1
    for name in (".runner", ".credentials", ".credentials_rsaparams"):
        assert f"/files/{name}> <{machine.directory}/home/actions-runner/{name}>" in calls
    assert machine.calls[-1] == "systemctl <start> <--no-block> <hostler-runner.service>"
    idle = next(n for n, call in enumerate(machine.calls) if '"status":"idle"' in call)
    assert {call.split()[0] for call in machine.calls[idle + 1 : -1]} <= {
        "id"
    }  # no job runs beside a token that opens something


def test_who_is_not_root_asks_sudo_for_what_only_root_may(machine: Machine) -> None:
    """cloud-init of GARM's provider library runs it as the user `runner`."""
    ended = machine.run(install([TOOL]), IS="1000")
    assert (ended.returncode, ended.stderr) == (0, "")
    _quiet_about_the_token(machine, ended)
    asked = {call.split("<")[1].split(">")[0] for call in machine.calls if call.startswith("sudo ")}
    assert {one.rpartition("/")[2] for one in asked} == {
        "test", "mkdir", "tar", "installdependencies.sh", "chown", "install", "systemctl",
    }  # fmt: skip


def test_who_asks_sudo_behind_a_proxy_keeps_what_says_so(machine: Machine) -> None:
    """sudo begins with an environment of its own, and the runner's dependencies are downloaded."""
    ended = machine.run(install([TOOL], outside=BEHIND), IS="1000")
    assert (ended.returncode, ended.stderr) == (0, "")
    asked = [call for call in machine.calls if call.startswith("sudo ")]
    assert all(call.startswith("sudo <--preserve-env=http_proxy,https_proxy,no_proxy,HTTP_PROXY,") for call in asked)
    assert any("installdependencies.sh" in call for call in asked)
    assert not [call for call in asked if EVIL in call]
    root = machine.run(install([TOOL], outside=BEHIND))
    assert (root.returncode, root.stderr) == (0, "")


def test_dependencies_are_tried_again_while_the_package_manager_is_busy(machine: Machine) -> None:
    tries = machine.directory / "tries"
    dependencies = f'#!/bin/sh\necho >> {tries}; [ "$(/usr/bin/wc -l < {tries})" -ge 3 ]'
    (machine.directory / "bin" / "tar").write_text(
        FAKES["tar"].replace('"#!/bin/sh"', f"'{dependencies}'").replace("echo", "printf '%b\\n'", 1)
    )
    ended = machine.run(install([TOOL]))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(tries.read_text().splitlines()) == 3
    assert [call for call in machine.calls if call.startswith("sleep")] == ["sleep <15>"] * 2


def test_what_is_said_is_json(machine: Machine) -> None:
    machine.has_runner()
    machine.run(install([]))
    sent = [call.split("<--data> <")[1].split("> <")[0] for call in machine.calls if "<--data>" in call]
    assert [json.loads(one).get("status") for one in sent] == [None, "idle"]
    assert set(json.loads(sent[0])) == {"os_name", "os_version"}


def test_a_download_is_checked_and_unpacked(machine: Machine) -> None:
    ended = machine.run(install([TOOL]))
    assert (ended.returncode, ended.stderr) == (0, "")
    _quiet_about_the_token(machine, ended)
    names = [call.split()[0] for call in machine.calls]
    assert names.index("sha256sum") < names.index("tar")
    download = next(call for call in machine.calls if TOOL.download_url in call)
    assert "<--config>" in download
    assert machine.told_curl.count(TOKEN) == len([call for call in machine.calls if WHERE.metadata[:24] in call])


@pytest.mark.parametrize(
    ("tools", "archive", "said"),
    [
        ([TOOL], "something else", "wrong checksum"),
        ([Tool("linux", "x64", TOOL.download_url)], ARCHIVE.decode(), "the forge gave no checksum"),
        ([], "", "the forge offers none for linux on amd64: build the runner into the image"),
        (None, "", "and the forge is away: build the runner into the image"),
        ([Tool("win", "x64", "https://dl.example/r.zip", "", "", "ab")], "", "the image has no runner"),
        ([Tool("linux", "arm64", "https://dl.example/r.tgz", "", "", "ab")], "", "the image has no runner"),
    ],
)
def test_no_unchecked_program_is_run(machine: Machine, tools: list[Tool] | None, archive: str, said: str) -> None:
    ended = machine.run(install(tools), ARCHIVE=archive)
    assert ended.returncode == 1
    assert said in ended.stderr
    (told,) = [call for call in machine.calls if '"status":"failed"' in call]
    assert said in told  # the coordinator hears of it, and not only the console
    assert not [call for call in machine.calls if call.startswith(("tar", "systemctl"))]
    assert not [call for call in machine.calls if '"idle"' in call]


def test_the_wrapper_fetches_the_install_script_runs_it_and_cleans_up(machine: Machine) -> None:
    ended = machine.run(wrapper(), INSTALL=f"echo installed > {machine.directory}/proof")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (machine.directory / "proof").read_text() == "installed\n"
    assert list((machine.directory / "tmp").iterdir()) == []
    _quiet_about_the_token(machine, ended)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"INSTALL": "exit 3"}, "the install script failed"),
        ({"INSTALL": "", "CURL_EXIT": "22"}, "the install script could not be fetched"),
    ],
)
def test_a_wrapper_that_cannot_go_on_says_why(machine: Machine, more: dict[str, str], said: str) -> None:
    ended = machine.run(wrapper(), **more)
    assert ended.returncode == 1
    last = next(call for call in reversed(machine.calls) if call.startswith("curl"))
    assert f"<{WHERE.callback}/status>" in last
    told = json.loads(last.split("<--data> <")[1].split("> <")[0])
    assert told["status"] == "failed"
    assert said in told["message"]
    _quiet_about_the_token(machine, ended)


def test_user_data_is_cloud_config_with_the_wrapper_in_it() -> None:
    data = scripts.user_data(instance(), pool(), WHERE, TOKEN)
    head, _, document = data.partition(b"\n")
    assert head == b"#cloud-config"
    file = json.loads(document)["write_files"][0]
    assert file["permissions"] in ("0600", "0700")
    assert json.loads(document)["runcmd"][0][-1] == file["path"]
    assert base64.b64decode(file["content"]).decode() == wrapper()


def test_addresses_are_made_of_the_runner_url_with_or_without_a_slash() -> None:
    assert scripts.urls("http://coordinator.example:9997") == WHERE
    assert WHERE.metadata == "http://coordinator.example:9997/api/v1/metadata"
