"""What people and programs see of the coordinator's answers."""

import io
import json
from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, RenderableType

from hostler.cli import host_views, views
from hostler.cli.shape import to_json
from protos.hostler.v1.admin_pb2 import (
    FleetStatusResponse,
    GetConsoleResponse,
    GetHostResponse,
    Host,
    Instance,
    Job,
    ListJobsResponse,
    TimelineEntry,
)
from protos.hostler.v1.fleet_pb2 import DeviceCount, Driver, DriverOut, Emulated, Heartbeat, Pressure, Resources

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def at(seconds: float) -> Timestamp:
    """So many seconds before NOW."""
    made = Timestamp()
    made.FromMilliseconds(round((NOW.timestamp() - seconds) * 1000))
    return made


def shown(table: RenderableType) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=1000).print(table)
    return [" ".join(line.split()) for line in file.getvalue().splitlines()]


def test_devices_are_shown_where_some_host_has_any() -> None:
    def gpus(count: int) -> Resources:
        return Resources(devices=[DeviceCount(name="gpu", count=count)])

    hosts = [
        Host(name="full", capacity=gpus(2), used=gpus(2)),
        Host(name="free", capacity=gpus(2)),
        Host(name="lost-one", capacity=gpus(1), used=gpus(2)),
        Host(name="plain"),
    ]
    told = shown(host_views.hosts(hosts, NOW))
    assert "DISK DEVICES DRIVERS" in told[0]
    for line, devices in zip(told[1:], ["gpu 0/2 free", "gpu 2/2 free", "gpu -1/1 free", "0/0 GiB - "], strict=True):
        assert devices in line
    assert "DEVICES" not in shown(host_views.hosts(hosts[3:], NOW))[0]
    (fact,) = [line for line in shown(host_views.host(GetHostResponse(host=hosts[1]), NOW)) if "devices" in line]
    assert fact.split(maxsplit=1) == ["devices", "gpu 2/2 free"]


def test_hosts_and_instances_are_shown_with_use_and_age() -> None:
    status = FleetStatusResponse(
        coordinator_version="0.1.0",
        controller_id="c-1",
        hosts=[
            Host(
                name="build-1",
                connected=True,
                arch="amd64",
                capacity=Resources(vcpus=8, memory_mib=16384, disk_gib=100),
                used=Resources(vcpus=2, memory_mib=2560, disk_gib=10),
                drivers=[
                    Driver(name="libvirt", acceleration="kvm", emulated=[Emulated(arch="arm64", images=["tiny"])])
                ],
                drivers_out=[DriverOut(name="lxd", detail="its daemon is away")],
                agent_version="0.1.0",
                load=Heartbeat(load=0.5),
                instances=1,
            ),
            Host(
                name="b-2",
                presence="lost",
                disconnected_at=at(360),
                admission="draining",
                admission_reason="new",
                drain_deadline=at(-9),
                pressure=Pressure(code="disk_low", detail="1 GiB"),
            ),
        ],
        instances=[
            Instance(
                name="r-1", status="running", runner_status="active", host="build-1", job_id="7", created_at=at(125)
            ),
            Instance(name="r-2", status="error", provider="cloud-x", fault="no quota\n\x1b[2J"),
        ],
    )
    assert shown(host_views.fleet(status, NOW)) == [
        "coordinator 0.1.0, controller c-1",
        "",
        "HOST CONNECTED TAKES MACHINES ARCH INSTANCES VCPUS MEMORY DISK DRIVERS AGENT LOAD",
        "build-1 yes yes amd64, arm64 (emulated) 1 2/8 2.5/16.0 GiB 10/100 GiB libvirt (kvm), lxd (out) 0.1.0 0.50",
        "b-2 lost for 6m0s draining (new), busy machines are stopped in 9 s; 1 GiB - 0 0/0 0.0/0.0 GiB 0/0 GiB - - -",
        "",
        "INSTANCE STATUS RUNNER HOST AGE JOB FAULT",
        "r-1 running active build-1 2m5s 7 -",
        "r-2 error - cloud cloud-x - - no quota \N{REPLACEMENT CHARACTER}[2J",
    ]


def test_an_empty_fleet_says_so() -> None:
    lines = shown(host_views.fleet(FleetStatusResponse(coordinator_version="[/b]"), NOW))
    assert lines == ["coordinator [/b], controller", "", "no host has connected yet", "", "no instances"]


def test_jobs_are_listed_with_what_they_wait_for() -> None:
    found = [
        Job(id="1", name="[red]build", entity="o/r", labels=["linux", "x64"], status="queued", queued_at=at(4000)),
        Job(id="2", name="test", entity="o/r", status="completed", conclusion="failure", runner_name="r-1"),
    ]
    found[0].waiting_reason = "no host has room"
    assert shown(views.jobs(found, NOW))[1:] == [
        "1 [red]build o/r linux, x64 queued - 1h6m ago no host has room",
        "2 test o/r - failure r-1 - -",
    ]
    assert shown(views.jobs([], NOW)) == ["no jobs"]


def test_a_timeline_counts_milliseconds_from_its_first_entry() -> None:
    job = Job(id="1", forge_job_id=42, attempt=1, name="build", status="in_progress")
    for seconds, step in ((10, "webhook"), (9.996, "committed"), (7.5, "started")):
        job.timeline.append(TimelineEntry(step=step, at=at(seconds), instance_id="i-1"))
    lines = shown(views.job(job))
    assert "at the forge 42, attempt 1" in lines
    assert lines[-4:] == [
        "AT MS STEP MS STEP INSTANCE DETAIL",
        "0 0 webhook i-1 -",
        "4 4 committed i-1 -",
        "2500 2496 started i-1 -",
    ]


def test_a_job_without_a_timeline_is_shown() -> None:
    assert shown(views.job(Job(id="1", status="queued")))[-1] == "status queued"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (-30, "0s"), (59.9, "59s"), (60, "1m0s"), (3600, "1h0m"), (90061, "1d1h"), (86400 * 400, "400d0h")],
)
def test_ages_show_their_two_greatest_units(seconds: float, text: str) -> None:
    assert views.age(at(seconds), NOW) == text


def test_a_line_of_the_watch_holds_no_control_characters() -> None:
    entry = TimelineEntry(job_id="1", step="started", at=at(0.25), detail="a\nb\x1b[31m")
    assert views.entry(entry) == (
        "2026-03-01T11:59:59.750Z  started         job 1  instance -  a b\N{REPLACEMENT CHARACTER}[31m"
    )


def test_json_has_every_key_numbers_as_numbers_and_null_for_what_is_not_set() -> None:
    job = Job(id="1", forge_job_id=2**53 - 1, queued_at=at(0.001), labels=["a"])
    assert json.loads(to_json(ListJobsResponse(jobs=[job]))) == {
        "jobs": [
            {
                "id": "1",
                "forge_job_id": 2**53 - 1,
                "attempt": 0,
                "entity": "",
                "name": "",
                "labels": ["a"],
                "status": "",
                "conclusion": "",
                "runner_name": "",
                "instance_id": "",
                "waiting_reason": "",
                "queued_at": "2026-03-01T11:59:59.999000Z",
                "timeline": [],
            }
        ]
    }
    host = json.loads(to_json(FleetStatusResponse(hosts=[Host(used=Resources(memory_mib=5))])))["hosts"][0]
    assert host["used"] == {"vcpus": 0, "memory_mib": 5, "disk_gib": 0, "devices": []}
    assert host["capacity"] is None
    assert host["last_seen"] is None
    assert json.loads(to_json(GetConsoleResponse(data=b"\xff"))) == {"data": "/w==", "truncated": False}


def test_json_for_streams_is_one_line() -> None:
    assert "\n" not in to_json(TimelineEntry(detail="a\nb", at=at(0)), lines=True)
