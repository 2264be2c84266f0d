"""The way of webhooks from the forge to the coordinator: doubled, late, lost and delivered again, or lost for good."""

import asyncio
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Final

from coordinator.http.errors import ApiError
from tests.simulation.world.forge import Delivery
from tests.simulation.world.guests import Request
from tests.simulation.world.life import DeadError
from tests.simulation.world.scenario import BASE_URL, SECRET, chances

if TYPE_CHECKING:
    from tests.simulation.world.world import World

_AGAIN_SECONDS: Final = (60.0, 300.0)
_LATE_SECONDS: Final = 10.0  # others may have overtaken it


class Deliveries:
    def __init__(self, world: "World") -> None:
        self.pending = 0
        self._world = world
        self._chance = chances("webhooks", world.scenario.seed)

    def emit(self, delivery: Delivery) -> None:
        dropped = self._world.faults.webhook_dropped
        if dropped and self._chance.random() < dropped:
            self._world.accident("webhook_dropped")
            self._world.log("forge", f"webhook {delivery.action} of job {delivery.job_id} is never sent")
            return
        times = 2 if self._chance.random() < self._world.faults.webhook_twice else 1
        if times > 1:
            self._world.accident("webhook_twice")
        for _ in range(times):
            self.pending += 1
            self._world.spawn(self._deliver(delivery))

    async def _deliver(self, delivery: Delivery) -> None:
        """In order where nothing goes wrong, for the delay is then the same for all."""
        faults = self._world.faults
        calm = faults.until == 0.0
        delay = 0.05 if calm else self._chance.uniform(0.01, max(faults.webhook_seconds, 0.1))
        if delay > _LATE_SECONDS:
            self._world.accident("webhook_seconds")
        await asyncio.sleep(delay)
        while True:
            if self._chance.random() < self._world.faults.webhook_lost:
                self._world.accident("webhook_lost")
            elif await self._arrives(delivery):
                break
            self._world.log("forge", f"webhook {delivery.action} of job {delivery.job_id} is lost")
            await asyncio.sleep(self._chance.uniform(*_AGAIN_SECONDS))
        self.pending -= 1

    async def _arrives(self, delivery: Delivery) -> bool:
        body = _body(delivery)
        signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        headers = {"x-github-event": "workflow_job", "x-hub-signature-256": f"sha256={signature}"}

        async def call() -> int | None:
            answer = await self._world.webhooks().receive(Request(body, headers))  # type: ignore[arg-type]
            return answer.status_code

        try:
            status = await self._world.ask(call)
        except (ApiError, DeadError):
            return False
        # The forge's own clock of ten seconds is left out: what is late is taken all the same.
        return status == 200


def _body(delivery: Delivery) -> bytes:
    owner, name = delivery.entity.split("/")
    return json.dumps(
        {
            "action": delivery.action,
            "workflow_job": {
                "id": delivery.job_id,
                "run_id": delivery.job_id,
                "html_url": f"{BASE_URL}/{delivery.entity}/actions/runs/1/job/{delivery.job_id}",
                "labels": list(delivery.labels),
                "name": f"job-{delivery.job_id}",
                "runner_name": delivery.runner or None,
                "conclusion": delivery.conclusion or None,
            },
            "repository": {"name": name, "owner": {"login": owner}},
        }
    ).encode()
