"""The runner API on a real socket, for guests that are real programs, with one machine that boots."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from coordinator.domain.changes import Phase
from coordinator.domain.instance import Instance
from coordinator.http import app
from coordinator.http.server import serve
from coordinator.runner_api import scripts
from coordinator.runner_api.routes import RunnerApi
from coordinator.store.instances import PhaseFact
from tests.samples.http import Site, open_site

FILES = {
    ".runner": b'{"agentId":7,"agentName":"hostler"}\n',
    ".credentials": b'{"scheme":"OAuth","planted":"secret-of-credentials"}\n',
    ".credentials_rsaparams": b'{"d":"planted-secret-of-rsaparams"}\n',
}


class RunnerSite:
    def __init__(self, site: Site, machine: Instance, url: str) -> None:
        self.site = site
        self.machine = machine
        self.url = url
        self.where = scripts.urls(url)
        self.token = ""

    async def now(self) -> Instance:
        return await self.site.sample.now(self.machine)


@asynccontextmanager
async def open_runner_site(directory: Path) -> AsyncIterator[RunnerSite]:
    """The machine's runner is configured already: FILES."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    async with open_site(directory) as site:
        machine = await site.sample.instance()
        for phase in (Phase.ACCEPTED, Phase.STARTED):
            await site.store.instances.record_phase(PhaseFact("host-1", machine.id, phase, site.sample.clock()))
        await site.store.instances.configure_runner(machine.id, 7, FILES)
        made = RunnerSite(site, machine, f"http://{address}")
        made.token = await site.token(machine)
        api = RunnerApi(site.store, site.forges, site.tokens, made.where, site.waiting)
        async with serve(app.for_machines(api), address, "http.runner_bind"):
            yield made
