"""The coordinator, which reads everything anew on SIGUSR1 too: by itself it does so every five minutes, and nobody
measures for that long.
"""

import asyncio
import signal

from coordinator import main
from coordinator.engine.engine import Engine
from coordinator.store.changed import Changes


def run() -> None:
    real = Engine.run

    async def listening(self: Engine) -> None:
        sweep = signal.SIGUSR1
        asyncio.get_running_loop().add_signal_handler(sweep, lambda: self._store.feed.changed(Changes(everything=True)))
        await real(self)

    Engine.run = listening  # type: ignore[method-assign]
    main.main()


if __name__ == "__main__":
    run()
