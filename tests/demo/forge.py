"""The demo's hand on the forge simulator: queue jobs, wait for their ends."""

import hashlib
from typing import Any

import aiohttp
import msgspec

from tests.demo.failed import DemoFailed
from tests.demo.farm import LABELS, REPOSITORY, new_secret


class QueuedJob(msgspec.Struct, frozen=True):
    number: int
    forge_id: int
    secret: str  # that only the job's script knows

    @property
    def proof(self) -> str:
        """What only a shell that ran the script can have printed: it is written nowhere before."""
        return hashlib.sha256(self.secret.encode()).hexdigest()


def script(secret: str) -> str:
    return f"""\
echo "job runs on $(uname -n) as $(id -un)"
echo "secret {secret}"
printf 'proof '
printf '%s' {secret} | sha256sum | cut -d ' ' -f 1
"""


class Control:
    def __init__(self, session: aiohttp.ClientSession, state: dict[str, Any]) -> None:
        self._session = session
        self._url = f"{state['base_url']}/_control"
        self._headers = {"Authorization": f"Bearer {state['control_token']}"}

    async def queue(self, number: int) -> QueuedJob:
        secret = new_secret()
        return QueuedJob(number, await self.queue_script(script(secret), name=f"job {number}"), secret)

    async def queue_script(self, text: str, *, name: str = "build", labels: tuple[str, ...] = LABELS) -> int:
        """Queue a job; returns the forge's id of it."""
        body = {"repository": REPOSITORY, "labels": list(labels), "script": text, "name": name}
        async with self._session.post(f"{self._url}/jobs", json=body, headers=self._headers) as answer:
            if answer.status != 201:
                raise DemoFailed(f"the forge simulator did not queue a job: {await answer.text()}")
            told = await answer.json()
        return int(told["jobs"][0]["id"])

    async def cancel(self, forge_id: int) -> None:
        async with self._session.post(f"{self._url}/jobs/{forge_id}/cancel", headers=self._headers) as answer:
            answer.raise_for_status()

    async def job(self, forge_id: int) -> dict[str, Any]:
        async with self._session.get(f"{self._url}/jobs/{forge_id}", headers=self._headers) as answer:
            answer.raise_for_status()
            return dict(await answer.json())
