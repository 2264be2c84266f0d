"""Whether a host that is connected takes machines: what its agent says, and what it holds that must go first.

The database, and so the planner, hears of changes only.
"""

from coordinator.fleet.links import Link
from coordinator.store.hosts import Pressure
from coordinator.store.store import Store


def closed_for(short: Pressure, strays: int) -> Pressure:
    """Why nothing may be added; the agent's own reason comes first.

    `strays`: machines whose rows have ended, and which take room that nobody counts any more.
    """
    if short.code or not strays:
        return short
    return Pressure("strays", f"{strays} machines that have ended while it was away must go first")


async def tell(store: Store, link: Link) -> None:
    now = closed_for(link.short, len(link.strays_to_go))
    if now.code != link.told.code:
        link.told = now
        await store.hosts.press(link.host, link.number, now)
