"""What the state of an LXD instance means for the machine that it is."""

from datetime import UTC, datetime, timedelta

import pytest

from hostler.network import NetworkAccess
from providers.contract import MachineState, Phase
from providers.lxd.api import Instance
from providers.lxd.machines import Held
from providers.lxd.tags import Tags

STARTED = datetime(2026, 1, 2, tzinfo=UTC)
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
MADE = {Phase.ACCEPTED: STARTED - timedelta(seconds=1)}
UP = MADE | {Phase.STARTED: STARTED}
ENDED = UP | {Phase.STOPPED: STARTED + timedelta(minutes=1)}


@pytest.mark.parametrize(
    ("status", "last_used_at", "phases", "state"),
    [
        ("Stopped", NEVER, MADE, MachineState.CREATING),
        ("Running", STARTED - timedelta(milliseconds=9), MADE, MachineState.RUNNING),
        ("Running", STARTED - timedelta(milliseconds=9), UP, MachineState.RUNNING),
        ("Frozen", STARTED - timedelta(milliseconds=9), UP, MachineState.RUNNING),
        ("Stopped", STARTED - timedelta(milliseconds=9), UP, MachineState.STOPPED),
        ("Running", STARTED + timedelta(seconds=9), UP, MachineState.STOPPED),  # it rebooted: nothing is used twice
        ("Running", STARTED + timedelta(seconds=99), ENDED, MachineState.STOPPED),  # somebody started it again
    ],
)
def test_an_instance_is_running_only_as_long_as_it_is_as_we_started_it(
    status: str, last_used_at: datetime, phases: dict[Phase, datetime], state: MachineState
) -> None:
    held = Held(
        Instance("hostler-1", status, last_used_at, {}, {}),
        Tags("id", 5, "/owner", "pool", NetworkAccess(), (), phases),
    )
    machine = held.machine
    assert (machine.state, machine.generation, machine.phases) == (state, 5, phases)
