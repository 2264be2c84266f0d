"""All benchmarks, in the order in which they run."""

from typing import Final

from tests.bench import http_servers, ingest, latency, memory, planner
from tests.bench.results import Benchmark

ALL: Final = (
    Benchmark("latency", latency.run),
    Benchmark("ingest", ingest.run),
    Benchmark("memory", memory.run),
    Benchmark("http", http_servers.run),
    Benchmark("planner", planner.run),
)
