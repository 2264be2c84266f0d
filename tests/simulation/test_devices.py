"""Jobs that ask for a device: as many at once as there are devices, on whatever host, and each knows why it waits."""

from pathlib import Path

import msgspec
import pytest

from providers.contract import DeviceUnavailable, Resources
from providers.simulated import SimulatedProvider, SimulatedSettings
from tests.providers.adapter import ignore
from tests.providers.with_simulated import Simulated
from tests.simulation import skew
from tests.simulation.farm import QUICK, farm, free_port, pool
from tests.simulation.skew import as_older, skewed

GPU = '[[flavor]]\nname = "gpu"\nvcpus = 1\nmemory_mib = 64\ndisk_gib = 1\ndevices = { gpu = 1 }\n'
GPUS = GPU + pool("gpus", labels=["gpu"], flavor="gpu")
WITH_TWO = msgspec.structs.replace(QUICK, devices={"gpu": 2})


async def test_as_many_jobs_run_at_once_as_there_are_devices(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare(GPUS)
        plain = await one.start_agent("plain")
        waits = one.queue(["gpu"])
        await one.until_waiting(waits, "no host has any gpu")
        with_two = await one.start_agent("with-two", WITH_TWO)
        one.guests.may_end.clear()
        jobs = [waits, *(one.queue(["gpu"]) for _ in range(4))]
        await one.until_waiting(jobs[-1], "no host has a free gpu")
        await one.until(lambda status: sum(i.runner_status == "active" for i in status.instances) == 2)
        shown = {host.name: host for host in (await one.status()).hosts}
        assert [(d.name, d.count) for d in shown["with-two"].capacity.devices] == [("gpu", 2)]
        assert [(d.name, d.count) for d in shown["with-two"].used.devices] == [("gpu", 2)]
        assert not shown["plain"].capacity.devices
        one.guests.may_end.set()
        await one.completed(*jobs)
        await one.assert_nothing_left()
        assert (with_two.most_at_once, plain.most_at_once) == (2, 0)


async def test_an_older_agent_is_given_no_machine_with_a_device(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        port = free_port()
        await one.declare(GPUS, pool())
        async with skewed(one.grpc_port, port, skew.older(), up=as_older, down=as_older):
            await one.start_agent(settings=WITH_TWO, address=f"127.0.0.1:{port}")
            waits = one.queue(["gpu"])
            await one.until_waiting(waits, "no host passes devices to machines of 'simulated'")
            await one.completed(one.queue())
            await one.stop("host-1")


async def test_a_device_is_one_machines_at_a_time_also_after_a_restart(tmp_path: Path) -> None:
    settings = SimulatedSettings(images=("stays",), disk_seconds=0, start_seconds=0, devices={"gpu": 1})
    asks = Resources(vcpus=1, memory_mib=64, disk_gib=1, devices={"gpu": 1})
    first, second = (Simulated(tmp_path).spec(resources=asks) for _ in range(2))
    provider = SimulatedProvider(settings, directory=tmp_path)
    await provider.create(first, ignore)
    again = SimulatedProvider(settings, directory=tmp_path)
    await again.open(lambda _: None)
    with pytest.raises(DeviceUnavailable, match="1 gpu wanted, 0 free"):
        await again.create(second, ignore)
    await again.power_off(first.instance_id)
    with pytest.raises(DeviceUnavailable):
        await again.create(second, ignore)
    await again.delete(first.instance_id)
    await again.create(second, ignore)
