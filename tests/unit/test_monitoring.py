"""The dashboard and the alerts ask for what there is: names, labels and values that the coordinator really gives."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import promql_parser
import pytest
import yaml

from coordinator.domain.fleet import Admission, EntityKind
from coordinator.domain.job import JobStatus
from coordinator.metrics.durations import Part
from coordinator.metrics.families import Here, families
from coordinator.metrics.meters import Meters
from coordinator.store.counted import Counts, Hosts, Instances, Jobs, Used
from coordinator.store.ways import JobWay
from tests.samples.domain import NOW, forge_access, instance, pool

HERE: Final = Path(__file__).parents[2]
BOARD: Final = HERE / "packaging/monitoring/grafana.json"
ALERTS: Final = HERE / "packaging/monitoring/alerts.yml"
MANUAL: Final = HERE / "docs/metrics.md"
VALUES: Final[dict[str, set[Any]]] = {
    "status": set(JobStatus),
    "part": set(Part),
    "connected": {"true", "false"},
    "valid": {"true", "false"},
    "admission": set(Admission),
}


class Series(NamedTuple):
    labels: frozenset[str]
    is_counted_up: bool  # so that it is to be asked for its rate


def served() -> dict[str, Series]:
    """Every name that a page can have."""
    counts = Counts(
        jobs=[Jobs("e", "queued", 1, NOW)],
        instances=[Instances("p", "running", "idle", 1)],
        hosts=[Hosts("amd64", True, "open", "", 1, 1, 1, 1)],
        used=[Used("amd64", 1, 1, 1)],
        entities=[msgspec.structs.replace(forge_access().entity, kind=kind) for kind in EntityKind],
        pools=[pool()],
        alive=[instance()],
    )
    here = Here("", "", "", "", "", "", True, 0, {"no_pool": 1}, {"token": 1}, {"cloud": True}, ("cloud",))
    meters = Meters()
    meters.webhook(True, "")
    meters.planned(1.0)
    way = JobWay("j", "octo", "widgets", "p", "success", ())
    meters.began(way)
    meters.ended(way)
    found = {}
    for family in [*families(counts, here, NOW), *meters.registry.collect()]:
        up = family.type in ("counter", "histogram") or family.name == "garm_webhook_received"
        for sample in family.samples:
            found[sample.name] = Series(frozenset(sample.labels), up)
    labelled = {"hostler_job_part_seconds": {"part", "pool", "entity"}, "hostler_job_wait_seconds": {"pool", "entity"}}
    for name, labels in labelled.items():  # those without a sample as yet
        found[f"{name}_bucket"] = Series(frozenset({*labels, "le"}), True)
    return found


def asked() -> Iterator[tuple[str, str]]:
    board = json.loads(BOARD.read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$entity", ".*")
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def selectors(node: Any) -> Iterator[tuple[Any, bool]]:
    """Each selector beneath, and whether it is one over a time."""
    if isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector, True
    elif isinstance(node, promql_parser.VectorSelector):
        yield node, False
    else:
        for name in ("expr", "lhs", "rhs"):
            if hasattr(node, name):
                yield from selectors(getattr(node, name))
        for argument in getattr(node, "args", ()):
            yield from selectors(argument)


@pytest.mark.parametrize(("title", "expression"), list(asked()))
def test_every_question_is_of_what_there_is(title: str, expression: str) -> None:
    there = served()
    found = list(selectors(promql_parser.parse(expression)))
    assert found, title
    for selector, over_time in found:
        assert selector.name in there, f"{title}: nothing is named {selector.name}"
        series = there[selector.name]
        assert over_time == series.is_counted_up, f"{title}: {selector.name} is to be asked for its rate, or is not"
        for matcher in selector.matchers.matchers:
            assert matcher.name in series.labels, f"{title}: {selector.name} has no label {matcher.name}"
            if str(matcher.op) == "MatchOp.Equal" and matcher.name in VALUES:
                assert matcher.value in VALUES[matcher.name], f"{title}: no {matcher.value}"


def test_the_rules_say_what_to_do() -> None:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
            assert re.fullmatch(r"\d+[smh]", rule["for"])
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert all(rule["annotations"][one] for one in ("summary", "description"))


def test_panels_do_not_overlap_and_have_names_of_their_own() -> None:
    panels = json.loads(BOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_the_manual_names_everything_that_is_served() -> None:
    text = MANUAL.read_text()
    named = set(re.findall(r"(?:hostler|garm)_\w+", _spread(text)))
    there = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in served()}
    assert there <= named, there - named


def _spread(text: str) -> str:
    """`a_{b,c}` as `a_b a_c`, and `{…}` as the three amounts of a fleet."""
    text = text.replace("{…}", "{vcpus,memory_bytes,disk_bytes}")

    def each(found: re.Match[str]) -> str:
        return " ".join(f"{found[1]}{middle}{found[3]}" for middle in found[2].split(","))

    return re.sub(r"(\w+_)\{([\w,]+)\}(\w*)", each, text)
