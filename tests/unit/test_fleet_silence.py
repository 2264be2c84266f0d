"""When an agent whose stream is open is taken for gone."""

from datetime import UTC, datetime

import pytest

from coordinator.fleet.links import AgentSilent, Link, Links
from coordinator.fleet.silence import LONGEST_SECONDS, cut_silent
from protos.hostler.v1 import fleet_pb2 as pb


@pytest.fixture
def links() -> Links:
    return Links()


def opened(links: Links, host: str, heard_at: float) -> Link:
    link = links.open(host, links.next_number(), "run", datetime(2030, 1, 1, tzinfo=UTC))
    link.listen(heard_at)
    return link


def test_only_who_has_missed_all_its_heartbeats_is_cut(links: Links) -> None:
    silent, quiet = opened(links, "host-1", 100.0), opened(links, "host-2", 101.0)
    cut_silent(links, 100.5 + LONGEST_SECONDS)
    assert silent.closed.is_set()
    assert isinstance(silent.why, AgentSilent)
    assert "host-1" in str(silent.why)
    assert not quiet.closed.is_set()


def test_who_waits_for_us_to_take_what_it_has_said_is_not_silent(links: Links) -> None:
    link = opened(links, "host-1", 100.0)
    link.is_listening = False
    cut_silent(links, 100.0 + 10 * LONGEST_SECONDS)
    assert not link.closed.is_set()
    link.listen(100.0 + 10 * LONGEST_SECONDS)
    cut_silent(links, 100.0 + 10.5 * LONGEST_SECONDS)
    assert not link.closed.is_set()


def test_a_stream_to_which_nobody_listens_yet_is_left_alone(links: Links) -> None:
    link = links.open("host-1", links.next_number(), "run", datetime(2030, 1, 1, tzinfo=UTC))
    cut_silent(links, 1e9)
    assert not link.closed.is_set()


async def test_an_event_that_is_repeated_takes_back_no_acknowledgement(links: Links) -> None:
    link = opened(links, "host-1", 0.0)
    for sequence in (6, 7, 3):
        link.acknowledge(sequence)
    message, _ = await link.next()
    assert message == pb.CoordinatorMessage(event_ack=pb.EventAck(sequence=7))
