"""Results on standard output: a table for people, or one JSON object a line."""

import sys

import msgspec
from rich.console import Console
from rich.table import Table

from tests.bench.machine import Machine
from tests.bench.results import Line, Result

_MARK = {True: "[green]yes[/]", False: "[red]missed[/]", None: ""}


class Show:
    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._results: list[Result] = []

    def machine(self, machine: Machine) -> None:
        """To standard error: standard output holds results alone."""
        sys.stderr.write(f"{machine.describe()}\n")

    def begin(self, name: str) -> None:
        if not self._json:
            sys.stderr.write(f"running {name} …\n")

    def results(self, results: list[Result]) -> None:
        self._results += results
        if self._json:
            for result in results:
                line = Line(result.name, result.value, result.unit, result.goal, result.ok)
                sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
            sys.stdout.flush()

    @property
    def missed(self) -> bool:
        return any(result.ok is False for result in self._results)

    @property
    def wrong(self) -> list[str]:
        """Counts that must be exact and are not."""
        return [result.name for result in self._results if result.exact and not result.ok]

    def end(self) -> None:
        if self._json or not self._results:
            return
        table = Table("what", "value", "unit", "goal", "reached")
        table.columns[1].justify = table.columns[3].justify = "right"
        for result in self._results:
            goal = "" if result.goal is None else f"{result.sense} {result.goal:,g}"
            table.add_row(result.name, f"{result.value:,g}", result.unit, goal, _MARK[result.ok])
        Console(width=None if sys.stdout.isatty() else 120).print(table)
