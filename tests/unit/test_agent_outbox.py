"""The outbox: order, acknowledgement, no repetition of what is on its way, bounded console logs."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from agent.outbox import Outbox
from protos.hostler.v1 import fleet_pb2 as pb
from providers.contract import Phase

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def waiting(outbox: Outbox) -> list[pb.AgentMessage]:
    """Everything a new stream would send."""
    found, position = [], 0
    while (entry := outbox.after(position)) is not None:
        found.append(entry.message)
        position = entry.position
    return found


def sequences(outbox: Outbox) -> list[int]:
    return [message.event.sequence for message in waiting(outbox) if message.HasField("event")]


def test_events_wait_in_order_until_acknowledged() -> None:
    outbox = Outbox()
    for phase in (Phase.ACCEPTED, Phase.DISK, Phase.STARTED):
        outbox.add_event("one", 1, phase, NOW)
    assert sequences(outbox) == [1, 2, 3]
    outbox.acknowledge(2)
    assert sequences(outbox) == [3]
    outbox.acknowledge(2)
    assert sequences(outbox) == [3]


def test_an_event_on_its_way_is_not_queued_twice_but_may_be_told_again_later() -> None:
    outbox = Outbox()
    outbox.add_event("one", 1, Phase.STARTED, NOW)
    outbox.add_event("one", 1, Phase.STARTED, NOW)
    assert sequences(outbox) == [1]
    outbox.acknowledge(1)
    outbox.add_event("one", 1, Phase.STARTED, NOW)
    assert sequences(outbox) == [2]


def test_a_console_log_waits_for_the_event_after_it() -> None:
    outbox = Outbox()
    outbox.add_event("one", 1, Phase.STARTED, NOW)
    outbox.add_console("one", b"log", truncated=False)
    outbox.add_event("one", 1, Phase.DELETED, NOW)
    outbox.acknowledge(1)
    assert [message.WhichOneof("message") for message in waiting(outbox)] == ["console_log", "event"]
    outbox.acknowledge(2)
    assert waiting(outbox) == []


def test_over_the_budget_the_oldest_console_logs_give_way_and_no_event_does() -> None:
    outbox = Outbox(console_budget_bytes=10)
    for name in ("one", "two", "three"):
        outbox.add_console(name, b"12345", truncated=False)
        outbox.add_event(name, 1, Phase.DELETED, NOW)
    logs = [message.console_log.instance_id for message in waiting(outbox) if message.HasField("console_log")]
    assert logs == ["two", "three"]
    assert sequences(outbox) == [1, 2, 3]


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=40))
def test_nothing_unacknowledged_is_ever_lost(steps: list[tuple[int, bool]]) -> None:
    outbox, added, acknowledged = Outbox(), 0, 0
    for number, add in steps:
        if add:
            outbox.add_console("one", b"log", truncated=False)
            outbox.add_event(f"instance-{added}", 1, Phase.STARTED, NOW)
            added += 1
        else:
            sequence = min(number, added)
            outbox.acknowledge(sequence)
            acknowledged = max(acknowledged, sequence)
        assert sequences(outbox) == list(range(acknowledged + 1, added + 1))
