"""What all commands share: the options for the coordinator and for JSON, and how an answer is shown."""

import sys
from typing import Annotated

from cyclopts import Parameter
from google.protobuf.message import Message
from rich.console import Console, RenderableType

from hostler.cli import shape
from hostler.cli.client import Connection

Coordinator = Connection
Json = Annotated[bool, Parameter(name="--json", negative="", help="JSON for programs instead of a table.")]


def show(answer: Message, table: RenderableType, *, json: bool) -> None:
    if json:
        print(shape.to_json(answer))
        return
    # Into a pipe nothing is wrapped: a line is a row.
    console = Console(width=None if sys.stdout.isatty() else 10_000, highlight=False)
    with console.capture() as captured:  # rich would answer a broken pipe in its own way
        console.print(table)
    sys.stdout.write(captured.get())
