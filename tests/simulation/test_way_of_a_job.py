"""The way of a job through the whole farm, with simulated machines."""

from pathlib import Path

from tests.simulation.farm import LABELS, REPOSITORY, farm

STEPS = [
    "webhook",
    "committed",
    "planned",
    "dispatched",
    "accepted",
    "disk",
    "started",
    "booted",
    "runner online",
    "job running",
    "completed",
    "destroyed",
]


async def test_a_queued_job_gets_a_machine_of_its_own_which_is_gone_afterwards(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        await one.until_host_connected()
        queued = one.forge.queue_job(REPOSITORY, LABELS, "true")
        done = await one.forge.wait_completed(queued.id)
        await one.until_empty()
        job = await one.job(queued.id)
        assert done.conclusion == "success"
        assert job.status == "completed"
        assert job.runner_name == done.runner_name
        seen = [entry.step for entry in job.timeline]
        assert [step for step in STEPS if step not in seen] == []
        assert one.forge.runners(REPOSITORY) == []
