"""Prometheus reads a whole coordinator while jobs go by."""

from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from protos.hostler.v1.admin_pb2 import ExplainJobRequest
from tests.simulation.farm import LABELS, REPOSITORY, Farm, farm


async def read(one: Farm, name: str) -> dict[frozenset[str], float]:
    """The samples of a name, each by the values of its labels."""
    async with aiohttp.ClientSession() as session, session.get(f"{one.url}/metrics") as answer:
        text = await answer.text()
    families = text_string_to_metric_families(text)
    found = [sample for family in families for sample in family.samples if sample.name == name]
    return {frozenset(sample.labels.values()): sample.value for sample in found}


async def test_the_way_of_a_job_can_be_read_afterwards(tmp_path: Path) -> None:
    parts = {"webhook_to_commit", "commit_to_dispatch", "dispatch_to_start", "start_to_online", "online_to_job"}
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        stuck = one.queue([*LABELS, "unknown"])
        await one.until_waiting(stuck, "no pool")
        assert await read(one, "hostler_jobs_without_machine") == {frozenset({"no_pool"}): 1}
        async with one.admin() as admin:
            explained = await admin.ExplainJob(ExplainJobRequest(id=str(stuck.id)))
        assert [list(pool.missing_labels) for pool in explained.pools] == [["unknown"]]
        assert explained.remedies[0] == "give pool small the labels unknown, if its machines are what they say"
        await one.completed(one.queue())

        async def measured() -> bool:
            return len(await read(one, "hostler_job_part_seconds_count")) == len(parts)

        await one.until_true(measured)
        assert set(await read(one, "hostler_job_part_seconds_count")) == {
            frozenset({part, "small", REPOSITORY}) for part in parts
        }
        assert list((await read(one, "hostler_job_wait_seconds_count")).values()) == [1]
        assert await read(one, "hostler_streams") == {frozenset(): 1}
        assert await read(one, "hostler_plans") == {frozenset(): 1}
        assert (await read(one, "hostler_plan_seconds_count"))[frozenset()] >= 2
        assert (await read(one, "garm_webhook_received"))[frozenset({"true", ""})] >= 4
        one.forge.cancel_job(stuck.id)
        await one.assert_nothing_left()
