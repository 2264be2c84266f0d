"""What a command means for what the host holds. Pure: the same question, the same answer."""

from enum import Enum, auto

import msgspec

from agent.endings import Ending
from providers.contract import Phase


class Holding(Enum):
    """What the agent is doing about an instance it knows."""

    MAKING = auto()
    MADE = auto()  # running or stopped
    INTERRUPTED = auto()  # half made by a process that died; nobody works on it
    REMOVING = auto()


class Held(msgspec.Struct, frozen=True):
    holding: Holding
    generation: int  # the highest commanded


class Answer(Enum):
    BEGIN = auto()
    REPEAT_PHASES = auto()
    REPEAT_FAILURE = auto()
    NUDGE = auto()  # it is being done; do not wait for the next try
    IGNORE = auto()


_ON_CREATE = {
    Holding.MAKING: Answer.REPEAT_PHASES,
    Holding.MADE: Answer.REPEAT_PHASES,
    Holding.INTERRUPTED: Answer.BEGIN,
    Holding.REMOVING: Answer.BEGIN,  # of a newer generation, see below: made once the old one is gone
}
_ON_DELETE = {
    Holding.MAKING: Answer.BEGIN,
    Holding.MADE: Answer.BEGIN,
    Holding.INTERRUPTED: Answer.BEGIN,
    Holding.REMOVING: Answer.NUDGE,
}


def on_create(generation: int, *, held: Held | None, ended: Ending | None) -> Answer:
    """A create never undoes an ending of its own or a newer generation, and never takes a generation back."""
    if ended is not None and generation <= ended.generation:
        failed_so = ended.phase is Phase.FAILED and generation == ended.generation and held is None
        return Answer.REPEAT_FAILURE if failed_so else Answer.IGNORE
    if held is None:
        return Answer.BEGIN
    if generation < held.generation or (held.holding is Holding.REMOVING and generation == held.generation):
        return Answer.IGNORE
    return _ON_CREATE[held.holding]


def on_delete(generation: int, *, held: Held | None, ended: Ending | None) -> Answer:
    """A delete may bear the generation of what it deletes. Of what is gone already, it is done and told again."""
    if ended is not None and generation < ended.generation:
        return Answer.IGNORE
    if held is None:
        return Answer.BEGIN
    return Answer.IGNORE if generation < held.generation else _ON_DELETE[held.holding]
