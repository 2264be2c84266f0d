"""Answers kept with their ETags: while nothing has changed, asking again costs nothing of the rate limit.

GitHub REST, best practices: an answer of 304 to a conditional request does not count against the primary limit.
"""

from collections import OrderedDict
from typing import Any, Final

import msgspec

_MOST: Final = 5000


class Answer(msgspec.Struct, frozen=True):
    """What was read of a page, and where the next one is."""

    etag: str
    content: Any
    following: str | None


class KeptAnswers:
    """By address; those that were not asked for again the longest go first."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    def get(self, url: str) -> Answer | None:
        if url in self._answers:
            self._answers.move_to_end(url)
        return self._answers.get(url)

    def keep(self, url: str, answer: Answer) -> None:
        self._answers[url] = answer
        self._answers.move_to_end(url)
        while len(self._answers) > self._most:
            self._answers.popitem(last=False)

    def __len__(self) -> int:
        return len(self._answers)
