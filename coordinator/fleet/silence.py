"""Agents that say nothing though their streams are open: their gRPC answers keepalives from a thread of its own."""

import asyncio
from typing import Final

from coordinator.fleet.links import AgentSilent, Links

HEARTBEAT_SECONDS: Final = 15
LONGEST_SECONDS: Final = 4.0 * HEARTBEAT_SECONDS
_LATE_SECONDS: Final = 5.0
"""After which it is we who have not listened."""


async def cut_silent_for_ever(links: Links) -> None:
    """Close the streams of agents that have missed their heartbeats, so that their hosts count as away."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + HEARTBEAT_SECONDS
        await asyncio.sleep(HEARTBEAT_SECONDS)
        if loop.time() <= due + _LATE_SECONDS:
            cut_silent(links, loop.time())


def cut_silent(links: Links, now: float) -> None:
    """`now`: by the loop's clock. Who waits for us is not silent, however long it waits."""
    for link in links.all():
        if link.is_listening and now - link.heard_at > LONGEST_SECONDS:
            link.close(AgentSilent(f"nothing was heard of the agent of '{link.host}' for {LONGEST_SECONDS:.0f} s"))
