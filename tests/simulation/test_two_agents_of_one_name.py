"""Two agents that say they are the same host: a mistake that must not make them tear each other's machines down."""

from pathlib import Path

from tests.simulation.farm import farm


async def test_the_newer_agent_is_served_and_the_older_waits_until_it_is_gone(tmp_path: Path) -> None:
    async with farm(tmp_path, coordinated=False) as one:
        await one.start_coordinator_process()
        await one.declare()
        older = await one.start_agent("host-1")
        await one.completed(one.queue())
        newer = await one.start_agent("host-1", key="twin")
        await one.until_true(lambda: older.inventories > 10)  # it tries again and again, and stays well
        await one.completed(one.queue(), one.queue())
        assert one.running("host-1")
        assert (len(older.create_calls), len(newer.create_calls)) == (1, 2)
        await one.assert_nothing_left()
        await one.stop("twin")
        await one.until_host_connected()
        await one.completed(one.queue())
        await one.assert_nothing_left()
        assert (len(older.create_calls), len(newer.create_calls)) == (2, 2)
        assert (await one.kill("coordinator")).count("another agent process has this host name") == 1
