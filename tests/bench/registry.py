"""All benchmarks, in the order in which they run."""

from typing import Final

from tests.bench import (
    agents,
    crash,
    guest_boot,
    host,
    host_lxd,
    http_servers,
    ingest,
    latency,
    lease,
    memory,
    planner,
    runner_image,
    storm,
)
from tests.bench.results import Benchmark

ALL: Final = (
    Benchmark("latency", latency.run),
    Benchmark("ingest", ingest.run),
    Benchmark("memory", memory.run),
    Benchmark("http", http_servers.run),
    Benchmark("planner", planner.run),
    Benchmark("crash", crash.run),
    Benchmark("storm", storm.run),
    Benchmark("storm-limited", storm.run_limited, longest_seconds=360),
    Benchmark("lease", lease.run, parts=("postgres",)),
    Benchmark("fleet", agents.run),
    Benchmark("agent-simulated", host.run_simulated),
    Benchmark("agent", host.run, parts=("hypervisor", "image")),
    Benchmark("agent-lxd", host_lxd.run, parts=("lxd",)),
    Benchmark("guest", guest_boot.run, parts=("hypervisor", "image")),
    Benchmark("runner-image", runner_image.run, longest_seconds=1200, parts=("hypervisor", "runner-image")),
)
