"""What applying a document would do, for people: object by object, and key by key where one is changed."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from hostler.cli.views import clean as clean
from protos.hostler.v1.admin_pb2 import ApplyResponse, ApplyStep

_SIGNS: Final = {"create": "+", "change": "~", "remove": "-", "keep": "="}
_COUNTED: Final = {"create": "to create", "change": "to change", "remove": "to remove", "keep": "unchanged"}


def told(answer: ApplyResponse) -> str:
    """A line an object, lines for its keys, what will be of no use yet, and how many there are of each."""
    counts = Counter(step.action for step in answer.steps)
    summary = ", ".join(f"{counts[action]} {called}" for action, called in _COUNTED.items())
    unserved = [clean(f"! no runners: {one}") for one in answer.unserved]
    return "\n".join([*(line for step in answer.steps for line in _lines(step)), *unserved, summary])


def _lines(step: ApplyStep) -> Iterator[str]:
    yield clean(f"{_SIGNS.get(step.action, '?')} {step.kind} {step.name}")
    for one in step.differences:
        before = f"{one.before or 'not set'} -> " if step.action == "change" else ""
        yield clean(f"    {one.key}: {before}{one.after or 'not set'}")
