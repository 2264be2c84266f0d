"""The commands of `hostler` against an admin service on a real gRPC port: output, requests and exit codes."""

import hashlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from coordinator.declare import Declaration
from hostler import config
from hostler.cli.main import run
from protos.hostler.v1 import admin_pb2_grpc
from protos.hostler.v1.admin_pb2 import (
    ApplyRequest,
    ApplyResponse,
    ApplyStep,
    BackupEnd,
    BackupPiece,
    BackupRequest,
    CheckProviderRequest,
    CheckProviderResponse,
    CordonHostRequest,
    Difference,
    DrainHostRequest,
    ExplainJobRequest,
    Explanation,
    ExportRequest,
    ExportResponse,
    FleetStatusRequest,
    FleetStatusResponse,
    GetConsoleRequest,
    GetConsoleResponse,
    GetHostRequest,
    GetHostResponse,
    GetJobRequest,
    Host,
    HostVerdict,
    InLine,
    Instance,
    Job,
    ListHostsRequest,
    ListHostsResponse,
    ListJobsRequest,
    ListJobsResponse,
    ListProvidersRequest,
    ListProvidersResponse,
    PoolVerdict,
    PrefetchImagesRequest,
    Provider,
    ProviderFinding,
    RemoveHostRequest,
    RemoveHostResponse,
    RemoveImageRequest,
    Stray,
    TimelineEntry,
    UncordonHostRequest,
    WatchRequest,
)
from tests.samples.fake_images import FakeImages

BUILD_1 = Host(
    name="build-1",
    connected=True,
    presence="connected",
    admission="draining",
    admission_reason="new disks",
    instances=3,
)
CONSOLE = b"boot\r\n\x1b[2Jlogin:\xff"
STARTED = [sys.executable, "-c", "from hostler.cli.main import main; main()"]


class FakeCoordinator(FakeImages):
    """Answers from memory and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Message] = []
        self.stays = False
        self.cut_off = ""  # how a backup is
        self.providers: list[Provider] = []
        self.gone = threading.Event()

    def FleetStatus(self, request: FleetStatusRequest, context: grpc.ServicerContext) -> FleetStatusResponse:  # noqa: N802
        self.asked.append(request)
        return FleetStatusResponse(controller_id="c-1", hosts=[Host(name="build-1", connected=True)])

    def Apply(self, request: ApplyRequest, context: grpc.ServicerContext) -> ApplyResponse:  # noqa: N802
        self.asked.append(request)
        if "refused" in request.document:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "key 'pool[0].flavor': no flavor 'refused'")
        if "pool" not in request.document:
            return ApplyResponse(steps=[ApplyStep(action="keep", kind="pool", name="small")])
        hidden = Difference(key="token", before='"***"', after='"***"')
        steps = [
            ApplyStep(action="create", kind="pool", name="small", differences=[Difference(key="image", after='"x"')]),
            ApplyStep(action="change", kind="credentials", name="bot\x1b[2J", differences=[hidden]),
        ]
        return ApplyResponse(changes=["created pool small"], steps=steps)

    def Export(self, request: ExportRequest, context: grpc.ServicerContext) -> ExportResponse:  # noqa: N802
        return ExportResponse(document='[[endpoint]]\nname = "forge"\n')

    def ListJobs(self, request: ListJobsRequest, context: grpc.ServicerContext) -> ListJobsResponse:  # noqa: N802
        self.asked.append(request)
        return ListJobsResponse(jobs=[Job(id="1", name="build")] * (2 if request.all else 1))

    def GetJob(self, request: GetJobRequest, context: grpc.ServicerContext) -> Job:  # noqa: N802
        if request.id != "1":
            context.abort(grpc.StatusCode.NOT_FOUND, f"no job '{request.id}'")
        return Job(id="1", name="build")

    def ExplainJob(self, request: ExplainJobRequest, context: grpc.ServicerContext) -> Explanation:  # noqa: N802
        hosts = [HostVerdict(host=f"build-{number}", reason="is full") for number in range(5)]
        return Explanation(
            job=Job(id=request.id, name="build\x1b[2J", entity="octo/widgets", labels=["linux"]),
            summary="pool small: no host has room for it",
            in_line=InLine(before_alike=2, before_of_entity=3, waiting=9, starves=True),
            pools=[
                PoolVerdict(name="small", code="no_host", reason="no host has room for it", hosts=hosts),
                PoolVerdict(name="gpus", code="labels", missing_labels=["linux"], reason="it lacks linux"),
            ],
            remedies=["room on a host"],
        )

    def Watch(self, request: WatchRequest, context: grpc.ServicerContext) -> Iterator[TimelineEntry]:  # noqa: N802
        context.add_callback(self.gone.set)
        yield TimelineEntry(job_id="1", step="webhook")
        yield TimelineEntry(job_id="1", step="committed")
        if self.stays:
            self.gone.wait(120)

    def ListHosts(self, request: ListHostsRequest, context: grpc.ServicerContext) -> ListHostsResponse:  # noqa: N802
        return ListHostsResponse(hosts=[BUILD_1, Host(name="build-2", presence="lost")])

    def GetHost(self, request: GetHostRequest, context: grpc.ServicerContext) -> GetHostResponse:  # noqa: N802
        if request.name != "build-1":
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no host '{request.name}' (known are build-1, build-2)")
        strays = [Stray(instance_id="i-9", name="r-9", reason="its runner has a job")]
        return GetHostResponse(host=BUILD_1, instances=[Instance(name="r-1", status="running")], strays=strays)

    def CordonHost(self, request: CordonHostRequest, context: grpc.ServicerContext) -> Host:  # noqa: N802
        self.asked.append(request)
        return Host(name=request.name, admission="cordoned", admission_reason=request.reason)

    def DrainHost(self, request: DrainHostRequest, context: grpc.ServicerContext) -> Host:  # noqa: N802
        self.asked.append(request)
        return BUILD_1

    def UncordonHost(self, request: UncordonHostRequest, context: grpc.ServicerContext) -> Host:  # noqa: N802
        self.asked.append(request)
        return Host(name=request.name, admission="open", instances=2)

    def RemoveHost(self, request: RemoveHostRequest, context: grpc.ServicerContext) -> RemoveHostResponse:  # noqa: N802
        self.asked.append(request)
        if not request.force:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "host 'build-1' has 2 instances")
        return RemoveHostResponse(lost=["r-1", "r-2"], connected=True, enrolled=True, invitations=1)

    def CheckProvider(self, request: CheckProviderRequest, context: grpc.ServicerContext) -> CheckProviderResponse:  # noqa: N802
        verdict = "unknown" if request.name == "old" else "problem"
        detail = "it knows no dsik\x1b[2J"
        return CheckProviderResponse(
            findings=[ProviderFinding(subject="extra_specs of pool small", verdict=verdict, detail=detail)]
        )

    def ListProviders(self, request: ListProvidersRequest, context: grpc.ServicerContext) -> ListProvidersResponse:  # noqa: N802
        return ListProvidersResponse(providers=self.providers)

    def Backup(self, request: BackupRequest, context: grpc.ServicerContext) -> Iterator[BackupPiece]:  # noqa: N802
        yield BackupPiece(data=b"half ")
        if self.cut_off == "by an error":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room in /var/lib/hostler")
        yield BackupPiece(data=b"whole")
        digest = hashlib.sha256(b"half whole" if self.cut_off != "otherwise" else b"").hexdigest()
        if self.cut_off != "at its end":
            yield BackupPiece(end=BackupEnd(rows=7, bytes=10, sha256=digest, key_file="/var/lib/hostler/secrets.key"))

    def GetConsole(self, request: GetConsoleRequest, context: grpc.ServicerContext) -> GetConsoleResponse:  # noqa: N802
        return GetConsoleResponse(data=CONSOLE if request.instance != "big" else b"x" * 8_000_000, truncated=True)


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator()


@pytest.fixture(autouse=True)
def address(coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    admin_pb2_grpc.add_AdminServicer_to_server(coordinator, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("HOSTLER_COORDINATOR", f"127.0.0.1:{port}")
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


Output = pytest.CaptureFixture[str]


@pytest.fixture
def unused() -> Iterator[str]:
    """An address that nobody listens on, and nobody else can take."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def test_fleet_status_for_people_and_programs(capsys: Output) -> None:
    assert run(["fleet", "status"]) == 0
    assert "build-1" in capsys.readouterr().out
    assert run(["fleet", "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hosts"][0]["connected"] is True


def test_a_wait_is_explained_for_people_and_programs(capsys: Output) -> None:
    assert run(["job", "explain", "1"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "Before it: 2 jobs like it, 3 of its entity in all; 9 wait in the whole queue." in said
    assert re.search(r"build-0, build-1, build-2 and 2 more +is full", said)
    assert re.search(r"gpus +- +it lacks linux", said)
    assert said.rstrip().endswith("What would start it:\n  room on a host")
    assert run(["job", "explain", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pools"][0]["hosts"][0] == {"host": "build-0", "reason": "is full"}


def test_a_backup_is_named_when_it_is_whole(tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "backup.gz"
    assert run(["backup", str(file)]) == 0
    assert file.read_bytes() == b"half whole"
    assert file.stat().st_mode & 0o777 == 0o600
    said = capsys.readouterr().out
    assert "7 rows" in said
    assert "Keep the coordinator's /var/lib/hostler/secrets.key too" in said
    assert run(["backup", str(file)]) == 2
    assert "exists" in capsys.readouterr().err
    assert run(["backup", str(tmp_path / "other.gz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 7
    assert {path.name for path in tmp_path.iterdir()} == {"backup.gz", "other.gz"}


def test_a_backup_into_a_pipe_says_on_the_other_one_what_it_is(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["backup", "-"]) == 0
    told = capfdbinary.readouterr()
    assert told.out == b"half whole"
    assert b"7 rows" in told.err


@pytest.mark.parametrize(
    ("how", "said"),
    [("by an error", "no room"), ("otherwise", "did not arrive"), ("at its end", "did not arrive")],
)
def test_of_a_backup_that_is_cut_off_nothing_is_kept(
    how: str, said: str, tmp_path: Path, coordinator: FakeCoordinator, capsys: Output
) -> None:
    coordinator.cut_off = how
    assert run(["backup", str(tmp_path / "backup.gz")]) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert run(["backup", str(tmp_path / "missing" / "backup.gz")]) == 2


def test_images_for_people_and_programs(capsys: Output) -> None:
    assert run(["image", "list"]) == 0
    assert "debian  amd64  qcow2, xz  0123456789ab  3" in capsys.readouterr().out
    assert run(["image", "show", "debian"]) == 0
    shown = capsys.readouterr().out
    assert "1.00 of 4.00 GiB (25 %)" in shown
    assert "another digest" in shown
    assert "\x1b" not in shown
    assert run(["image", "show", "debian", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hosts"][0]["bytes"] == 1 << 30
    assert run(["image", "show", "other"]) == 1
    assert "there is no image 'other'" in capsys.readouterr().err


def test_an_image_is_added_by_the_document_that_would_declare_it(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    (tmp_path / "sums").write_text(f"{'ab' * 32}  debian.qcow2\n")
    url = "https://images.example/debian.qcow2"
    assert run(["image", "add", "debian", "--url", url, "--sha256", str(tmp_path / "sums"), "--arch", "arm64"]) == 0
    (asked,) = coordinator.asked
    assert isinstance(asked, ApplyRequest)
    declared = config.parse(asked.document, Declaration, "document").image[0]
    assert (declared.name, declared.url, declared.digest, declared.arch) == ("debian", url, "ab" * 32, "arm64")
    assert run(["image", "add", "debian", "--url", url]) == 2, "without a digest"


def test_images_are_removed_and_prefetched(coordinator: FakeCoordinator, capsys: Output) -> None:
    assert run(["image", "remove", "debian", "--arch", "amd64"]) == 0
    assert capsys.readouterr().out == "image debian/amd64: removed\n"
    assert run(["image", "prefetch", "debian", "--host", "build-1"]) == 0
    assert "build-1  wanted" in capsys.readouterr().out
    assert coordinator.asked == [
        RemoveImageRequest(name="debian", arch="amd64"),
        PrefetchImagesRequest(name="debian", host="build-1"),
    ]


def test_no_line_is_wrapped_into_a_pipe(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert run(["fleet", "status"]) == 0
    assert "HOST     CONNECTED  TAKES MACHINES  ARCH  INSTANCES" in capsys.readouterr().out


def test_the_option_wins_over_the_environment(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTLER_COORDINATOR", "127.0.0.1:1")
    assert run(["fleet", "status", "--coordinator", address]) == 0


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert run(["fleet", "status"]) == 0


def test_apply_sends_the_document_with_its_secrets(
    tmp_path: Path, coordinator: FakeCoordinator, capsys: Output
) -> None:
    (tmp_path / "token").write_text("forge-token\n")
    path = tmp_path / "fleet.toml"
    path.write_text('[[pool]]\nname = "small"\n[[credentials]]\ntoken_file = "token"\n')
    assert run(["apply", str(path)]) == 0
    assert capsys.readouterr().out == "created pool small\n"
    sent = coordinator.asked[0]
    assert isinstance(sent, ApplyRequest)
    assert tomllib.loads(sent.document) == {"pool": [{"name": "small"}], "credentials": [{"token": "forge-token"}]}


SHOWN = """+ pool small
    image: "x"
~ credentials bot\N{REPLACEMENT CHARACTER}[2J
    token: "***" -> "***"
1 to create, 1 to change, 0 to remove, 0 unchanged
"""


def test_a_dry_run_and_a_diff_show_the_plan(tmp_path: Path, coordinator: FakeCoordinator, capsys: Output) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text('[[pool]]\nname = "small"\n')
    assert run(["apply", "-f", str(path), "--dry-run"]) == 0
    assert capsys.readouterr().out == SHOWN
    assert run(["diff", "-f", str(path), "--prune"]) == 4
    assert capsys.readouterr().out == SHOWN
    assert run(["diff", str(path), "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["steps"][0]["action"] == "create"
    document = 'pool = [{name = "small"}]'.replace("name", '"name"').replace("pool =", '"pool" =')
    assert coordinator.asked == [
        ApplyRequest(document=document + "\n", dry_run=True),
        ApplyRequest(document=document + "\n", dry_run=True, prune=True),
        ApplyRequest(document=document + "\n", dry_run=True),
    ]


def test_a_diff_without_changes_is_exit_0(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "fleet.toml"
    path.touch()
    assert run(["diff", "-f", str(path)]) == 0
    assert capsys.readouterr().out == "= pool small\n0 to create, 0 to change, 0 to remove, 1 unchanged\n"
    assert run(["diff", "-f", str(tmp_path / "absent")]) == 2


def test_pruning_is_asked_for(tmp_path: Path, coordinator: FakeCoordinator) -> None:
    path = tmp_path / "fleet.toml"
    path.touch()
    assert run(["apply", "-f", str(path), "--prune"]) == 0
    assert coordinator.asked == [ApplyRequest(prune=True)]


def test_an_export_is_printed_as_it_is(capsys: Output) -> None:
    assert run(["export"]) == 0
    assert tomllib.loads(capsys.readouterr().out) == {"endpoint": [{"name": "forge"}]}


def test_apply_says_when_nothing_changed(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "fleet.toml"
    path.touch()
    assert run(["apply", str(path)]) == 0
    assert capsys.readouterr().out == "nothing to change\n"


def test_a_refusal_of_the_coordinator_is_exit_1(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text('[[pool]]\nflavor = "refused"\n')
    assert run(["apply", str(path)]) == 1
    assert capsys.readouterr().err == "hostler: key 'pool[0].flavor': no flavor 'refused'\n"


def test_a_bad_document_is_exit_2_and_never_sent(tmp_path: Path, coordinator: FakeCoordinator, capsys: Output) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text('[[credentials]]\ntoken_file = "absent"\n')
    assert run(["apply", str(path)]) == 2
    assert "key 'credentials[0].token_file': there is no file" in capsys.readouterr().err
    assert coordinator.asked == []


def test_jobs_are_listed(coordinator: FakeCoordinator, capsys: Output) -> None:
    assert run(["job", "list"]) == 0
    assert capsys.readouterr().out.count("build") == 1
    assert run(["job", "list", "--all", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["jobs"]) == 2
    assert coordinator.asked == [ListJobsRequest(), ListJobsRequest(all=True)]


def test_a_job_is_shown_and_an_unknown_one_is_exit_1(capsys: Output) -> None:
    assert run(["job", "show", "1"]) == 0
    assert "build" in capsys.readouterr().out
    assert run(["job", "show", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "1"
    assert run(["job", "show", "2"]) == 1
    assert capsys.readouterr().err == "hostler: no job '2'\n"


def test_hosts_are_listed_and_shown_for_people_and_programs(capsys: Output) -> None:
    assert run(["host", "list"]) == 0
    listed = capsys.readouterr().out
    assert "draining (new disks)" in listed
    assert "lost" in listed
    assert run(["host", "show", "build-1"]) == 0
    shown = capsys.readouterr().out
    assert "r-1" in shown
    assert "its runner has a job" in shown
    assert run(["host", "show", "build-1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["strays"][0]["name"] == "r-9"
    assert run(["host", "show", "build-3"]) == 1
    assert capsys.readouterr().err == "hostler: there is no host 'build-3' (known are build-1, build-2)\n"


def test_hosts_are_cordoned_drained_and_opened(coordinator: FakeCoordinator, capsys: Output) -> None:
    assert run(["host", "cordon", "build-1", "--reason", "noise"]) == 0
    assert capsys.readouterr().out == "build-1 takes no machines: cordoned (noise); nothing is on it\n"
    assert run(["host", "drain", "build-1", "--deadline", "1h30m"]) == 0
    assert capsys.readouterr().out == "build-1 takes no machines: draining (new disks); 3 instances are on it\n"
    assert run(["host", "drain", "build-1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["admission"] == "draining"
    assert run(["host", "uncordon", "build-1"]) == 0
    assert capsys.readouterr().out == "build-1 takes machines; 2 instances are on it\n"
    assert coordinator.asked == [
        CordonHostRequest(name="build-1", reason="noise"),
        DrainHostRequest(name="build-1", deadline_seconds=5400),
        DrainHostRequest(name="build-1"),
        UncordonHostRequest(name="build-1"),
    ]


def test_a_host_is_removed_and_what_is_lost_with_it_told(capsys: Output) -> None:
    assert run(["host", "remove", "build-1"]) == 1
    assert "has 2 instances" in capsys.readouterr().err
    assert run(["host", "remove", "build-1", "--force"]) == 0
    assert " ".join(capsys.readouterr().out.split()) == (
        "removed build-1; its stream is cut; its certificate is revoked; 1 open invitations are withdrawn; "
        "ended here as lost: r-1, r-2 (what of them still runs there is to be stopped there)"
    )


def test_providers_are_listed_with_those_that_are_left_alone(
    capsys: Output, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["provider", "list"]) == 0
    assert "has no providers" in capsys.readouterr().out
    until = Timestamp()
    until.FromDatetime(datetime.now(UTC) + timedelta(minutes=5))
    coordinator.providers = [
        Provider(
            name="aws", circuit="open", failures=5, open_until=until, fault="no\x1b[2J way", pools=["linux", "big"]
        ),
        Provider(name="gcp", circuit="tried", failures=6),
        Provider(name="oci", circuit="closed", failures=1),
        Provider(name="own", circuit="closed", instances=7),
    ]
    assert run(["provider", "list"]) == 0
    aws, gcp, oci, own, _, fault = [line.strip() for line in capsys.readouterr().out.splitlines()[1:]]
    assert re.match(r"aws +left alone for \d+ s: 5 failures in a row +linux, big +0", aws)
    assert re.match(r"gcp +one call at a time: 6 failures in a row", gcp)
    assert re.match(r"oci +yes, after 1 failures in a row", oci)
    assert re.match(r"own +yes +- +7", own)
    assert fault.startswith("aws: no")
    assert "\x1b" not in fault
    assert run(["provider", "list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["providers"]
    assert [one["circuit"] for one in told] == ["open", "tried", "closed", "closed"]


def test_a_provider_with_a_problem_is_exit_1_and_one_that_tells_little_is_not(capsys: Output) -> None:
    assert run(["provider", "check", "old"]) == 0
    assert run(["provider", "check", "cloud"]) == 1
    said = capsys.readouterr()
    assert "extra_specs of pool small  problem  it knows no dsik" in said.out
    assert "\x1b" not in said.out
    assert "provider 'cloud' has problems" in said.err


def test_a_console_goes_into_a_pipe_as_it_is() -> None:
    done = subprocess.run([*STARTED, "instance", "console", "r-1"], capture_output=True, check=True)
    assert done.stdout == CONSOLE
    assert done.stderr == b"hostler: the beginning of this console was not kept\n"


def test_a_console_cannot_steer_a_terminal() -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "wb", buffering=0) as terminal:
        subprocess.run([*STARTED, "instance", "console", "r-1"], stdout=terminal, stderr=subprocess.DEVNULL, check=True)
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert shown == "boot\r\n\N{REPLACEMENT CHARACTER}[2Jlogin:\N{REPLACEMENT CHARACTER}"


def test_a_console_may_be_larger_than_grpc_allows_by_default(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["instance", "console", "big"]) == 0
    assert len(capfdbinary.readouterr().out) == 8_000_000


def test_watch_prints_until_the_coordinator_ends_it(capsys: Output) -> None:
    assert run(["watch", "--json"]) == 3
    printed = capsys.readouterr()
    assert [json.loads(line)["step"] for line in printed.out.splitlines()] == ["webhook", "committed"]
    assert "the coordinator ended the watch" in printed.err


def test_watch_ends_well_when_interrupted(coordinator: FakeCoordinator) -> None:
    coordinator.stays = True
    # What a shell starts in the background ignores the signal, and so does what these tests start there.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [*STARTED[:-1], heeding + STARTED[-1], "watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        lines = [watching.stdout.readline(), watching.stdout.readline()]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == 0
        assert watching.stderr.read() == ""
    assert "webhook" in lines[0]
    assert "committed" in lines[1]
    assert coordinator.gone.wait(60)


@pytest.mark.parametrize(
    ("command", "reader"),
    [("instance console big", "head -c 1"), ("job list --json", "true"), ("fleet status", "true"), ("watch", "true")],
)
def test_a_reader_that_goes_is_no_error(coordinator: FakeCoordinator, command: str, reader: str) -> None:
    coordinator.stays = True
    script = f"{shlex.join(STARTED)} {command} | {reader}; exit ${{PIPESTATUS[0]}}"
    # Unbuffered, a write that is cut short by the reader's end raises nothing.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["/bin/bash", "-c", script], env=environment, capture_output=True, check=False)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert b"Broken" not in done.stderr


@pytest.mark.parametrize(
    "command", [["fleet", "status"], ["watch"], ["job", "show", "1"], ["instance", "console", "x"]]
)
def test_no_coordinator_is_exit_3_with_the_way_out(unused: str, capsys: Output, command: list[str]) -> None:
    assert run([*command, "--coordinator", unused]) == 3
    assert capsys.readouterr().err.startswith(
        f"hostler: no coordinator answers at {unused} (is hostler-coordinator running? set --coordinator"
    )


def test_a_service_that_is_no_coordinator_is_told_so(capsys: Output) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    assert run(["fleet", "status", "--coordinator", f"127.0.0.1:{port}"]) == 1
    assert "does not know this request" in capsys.readouterr().err
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["fleet", "status", "--coordinator", "192.0.2.1:9998"], "needs TLS and a token"),
        (["fleet", "status", "--coordinator", "build.example:9998"], "give --token-file and --ca-pin"),
        (["fleet", "status", "--coordinator", "localhost"], "'localhost' is not HOST:PORT"),
        (["fleet", "stats"], 'Unknown command "stats"'),
        (["job", "show"], "ID"),
        (["host", "drain", "build-1", "--deadline", "90"], "--deadline"),
        (["host", "drain", "build-1", "--deadline", "400d"], "must be from 1s to 365d"),
        (["job", "list", "--every"], "--every"),
        (["apply"], "--file"),
        (["apply", "/nowhere/fleet.toml"], "/nowhere/fleet.toml: no such file"),
    ],
)
def test_wrong_usage_is_exit_2_with_its_reason(arguments: list[str], reason: str, capsys: Output) -> None:
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("hostler: ")
    assert reason in printed.err
    assert printed.out == ""


def test_an_address_in_the_environment_is_checked_too(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setenv("HOSTLER_COORDINATOR", "192.0.2.1:9998")
    assert run(["fleet", "status"]) == 2
    assert "needs TLS and a token" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["job"], ["job", "list", "--help"], ["--version"]])
def test_help_is_exit_0_on_standard_output(arguments: list[str], capsys: Output) -> None:
    assert run(arguments) == 0
    printed = capsys.readouterr()
    assert printed.out
    assert printed.err == ""
