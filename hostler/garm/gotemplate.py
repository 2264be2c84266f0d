"""GARM's install templates, written anew in ours: from Go's text/template to the part of Jinja that templates may use.

Taken are what GARM's own templates and those that people derive from them are made of: values, conditions, comments and
the trimming of spaces. What is anything else is said, and not guessed. Names are those of GARM's InstallContext
(garm-provider-common, cloudconfig; GARM, internal/templates).
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Final

from hostler.errors import HostlerError


class NotTranslated(HostlerError):
    """A template says what ours cannot say."""

    code = "not_translated"


# Of machines that have a just-in-time configuration, and none of GARM's agent; runners are always those of `runner`.
_VALUES: Final[Mapping[str, str]] = {
    "FileName": "tool_file",
    "DownloadURL": "tool_url",
    "TempDownloadToken": "tool_token",
    "RunnerUsername": '"runner"',
    "RunnerGroup": '"runner"',
    "RepoURL": "entity_url",
    "MetadataURL": "metadata_url",
    "RunnerName": "runner_name",
    "RunnerLabels": '(labels | join(","))',
    "CallbackURL": "callback_url",
    "CallbackToken": "token",
    "CABundle": '""',
    "GitHubRunnerGroup": '""',
    "EnableBootDebug": "false",
    "UseJITConfig": "true",
    "AgentMode": "false",
    "AgentDownloadURL": '""',
    "AgentURL": '""',
    "AgentToken": '""',
    "AgentShell": '"false"',
}
_EXTRA: Final = "ExtraContext"
_ACTION: Final = re.compile(r"\{\{(?P<left>-(?=\s))?(?P<body>.*?)(?P<right>(?<=\s)-)?\}\}", re.DOTALL)
_TOKEN: Final = re.compile(
    r'\s*(?:(?P<field>(?:\.[A-Za-z_][A-Za-z0-9_]*)+)|(?P<text>"(?:[^"\\\n]|\\.)*"|`[^`]*`)|(?P<number>-?\d+\b)'
    r"|(?P<word>[A-Za-z][A-Za-z0-9]*)|(?P<sign>[()|])|(?P<other>\S))"
)
_COMPARED: Final = {"eq": "==", "ne": "!="}
_JOINED: Final = {"and": "and", "or": "or"}


def is_go(text: str) -> bool:
    """Whether it uses a value as Go writes it, which Jinja cannot read."""
    return any(re.search(r"(^|[\s(|])\.[A-Za-z]", found["body"]) for found in _ACTION.finditer(text))


def translated(text: str) -> str:
    """
    Raises:
        NotTranslated: what cannot be said, and in which line.
    """
    made: list[str] = []
    at = 0
    for found in _ACTION.finditer(text):
        made.append(_plain(text[at : found.start()]))
        at = found.end()
        try:
            made.append(_action(found["body"].strip(), "-" if found["left"] else "", "-" if found["right"] else ""))
        except NotTranslated as error:
            raise NotTranslated(f"line {text.count(chr(10), 0, found.start()) + 1}: {error}") from None
    return "".join([*made, _plain(text[at:])])


def _plain(text: str) -> str:
    """What is text in Go, and would be the begin of something in Jinja."""
    return text.replace("{%", '{{ "{%" }}')


def _action(body: str, left: str, right: str) -> str:
    if body.startswith("/*") and body.endswith("*/"):
        return f'{{{{{left} "" {right}}}}}' if left or right else ""
    word, _, rest = body.partition(" ")
    match word:
        case "if":
            said = f"if {_expression(rest)}"
        case "else" if rest.strip().startswith("if "):
            said = f"elif {_expression(rest.strip()[3:])}"
        case "else" if not rest.strip():
            said = "else"
        case "end" if not rest.strip():
            said = "endif"
        case "range" | "with" | "define" | "template" | "block" | "break" | "continue":
            raise NotTranslated(f"'{word}' cannot be translated")
        case _:
            return f"{{{{{left} {_expression(body, shown=True)} {right}}}}}"
    return f"{{%{left} {said} {right}%}}"


def _expression(body: str, *, shown: bool = False) -> str:
    """`shown`: as text, in which Go writes what is true in lower case, and Python does not."""
    reader = _Reader(body)
    said = reader.pipeline()
    if reader.kind:
        raise NotTranslated(f"'{reader.word}' is not understood there")
    is_boolean = said in ("true", "false") or reader.last in ("eq", "ne", "not")
    return f"({said} | lower)" if shown and is_boolean else said


class _Reader:
    """Reads one pipeline, a token at a time. `kind` is that of the next one; empty at the end."""

    def __init__(self, body: str) -> None:
        self._tokens = [(found.lastgroup or "", found[found.lastgroup or 0]) for found in _TOKEN.finditer(body)]
        self._at = 0
        self.last = ""  # function of the pipeline; empty: a value

    @property
    def kind(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    @property
    def word(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _next(self) -> tuple[str, str]:
        token = (self.kind, self.word)
        self._at += 1
        return token

    def pipeline(self) -> str:
        said = self._command([])
        while self.word == "|" and self.kind == "sign":
            self._next()
            said = self._command([said])
        return said

    def _command(self, piped: list[str]) -> str:
        """A value, or a function with its arguments; what is piped is the last of them."""
        if self.kind == "word" and self.word not in ("true", "false"):
            name = self._next()[1]
            made = _call(name, [*self._operands(), *piped])
            self.last = name
            return made
        operands = self._operands()
        self.last = ""
        if len(operands) != 1 or piped:
            raise NotTranslated("one value is needed")
        return operands[0]

    def _operands(self) -> list[str]:
        found: list[str] = []
        while self.kind and not (self.kind == "sign" and self.word in ")|"):
            found.append(self._operand())
        return found

    def _operand(self) -> str:
        kind, word = self._next()
        match kind:
            case "field":
                return _value(word[1:].split("."))
            case "text":
                return _quoted(word)
            case "number":
                return word
            case "word" if word in ("true", "false"):
                return word
            case "sign" if word == "(":
                said = self.pipeline()
                if self._next() != ("sign", ")"):
                    raise NotTranslated("a parenthesis is not closed")
                return said
        raise NotTranslated(f"'{word}' is not understood")


def _value(path: list[str]) -> str:
    if path[0] == _EXTRA and len(path) == 2:
        return _extra(json.dumps(path[1]))
    if path == [_EXTRA]:
        return "extra_context"
    if len(path) == 1 and path[0] in _VALUES:
        return _VALUES[path[0]]
    raise NotTranslated(f"'.{'.'.join(path)}' is nothing that our templates are given")


def _extra(key: str) -> str:
    return f'(extra_context[{key}] | default(""))'  # what is not there is empty in Go


def _quoted(word: str) -> str:
    if word.startswith("`"):
        return _string(word[1:-1])
    try:
        return _string(str(json.loads(word)))
    except ValueError:
        raise NotTranslated(f"{word} is not understood") from None


def _string(text: str) -> str:
    """In Jinja, whose strings are Python's."""
    return json.dumps(text)


def _call(name: str, given: list[str]) -> str:
    made = _CALLS.get(name)
    said = made(name, given) if made else None
    if said is None:
        raise NotTranslated(f"'{name}' of {len(given)} is nothing that our templates can do")
    return said


def _compare(name: str, given: list[str]) -> str | None:
    if len(given) < 2 or (name == "ne" and len(given) != 2):
        return None
    return f"({' or '.join(f'{given[0]} {_COMPARED[name]} {other}' for other in given[1:])})"


def _join(name: str, given: list[str]) -> str | None:
    return f"({f' {_JOINED[name]} '.join(given)})" if given else None


def _index(_: str, given: list[str]) -> str | None:
    return _extra(given[1]) if len(given) == 2 and given[0] == "extra_context" else None


_CALLS: Final[Mapping[str, Callable[[str, list[str]], str | None]]] = {
    "eq": _compare,
    "ne": _compare,
    "and": _join,
    "or": _join,
    "not": lambda _, given: f"(not {given[0]})" if len(given) == 1 else None,
    "len": lambda _, given: f"({given[0]} | length)" if len(given) == 1 else None,
    "index": _index,
}
