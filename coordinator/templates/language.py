"""What install templates are written in: a small, sandboxed part of Jinja. Its time and its output are bounded.

People write templates, and the coordinator renders them between two requests. So there are conditions, and loops over
what the values hold, but no loop in a loop, no call, no arithmetic, nothing to be set and few filters: a text that
doubles what it has set needs forty lines to use up any memory. Filters double too, one after the other: what they make
is counted, whether it is shown or not.
"""

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import Any, Final

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hostler.errors import HostlerError

LARGEST: Final = 256 * 1024  # characters of a template
_LARGEST_SCRIPT: Final = 1024 * 1024  # characters of what is rendered

_MOST_MADE: Final = 8 * 1024 * 1024
"""Characters that the filters of one template may make, those that the compiler tries beforehand too."""

_made: ContextVar[int] = ContextVar("made")

_ALLOWED: Final[tuple[type[nodes.Node], ...]] = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Name, nodes.Const, nodes.Getattr,
    nodes.Getitem, nodes.Filter, nodes.Test, nodes.Compare, nodes.Operand, nodes.And, nodes.Or,
    nodes.Not, nodes.CondExpr, nodes.List, nodes.Tuple,
)  # fmt: skip
_FILTERS: Final = ("default", "length")
_CASES: Final = ("lower", "trim", "upper")
_TESTS: Final = ("defined", "undefined", "in", "none", "string", "mapping", "true", "false")
# PowerShell takes each of these for a quote.
_POWERSHELL_QUOTES: Final = "'\u2018\u2019\u201a\u201b"


class TemplateInvalid(HostlerError):
    """An install template that cannot be rendered."""

    code = "template_invalid"


def sh(value: object) -> str:
    """One word of a POSIX shell, whatever it holds."""
    return "'" + str(value).replace("'", "'\\''") + "'"


def ps(value: object) -> str:
    """One string of PowerShell, whatever it holds."""
    return "'" + "".join(one * 2 if one in _POWERSHELL_QUOTES else one for one in str(value)) + "'"


def join(values: Iterable[object], separator: object = "") -> str:
    """The texts of a list, with a separator between them."""
    if isinstance(values, str | Mapping):
        raise TemplateInvalid("join is for lists")
    parts, between = [str(value) for value in values], str(separator)
    _charge(len(between) * len(parts))  # before it is made
    return between.join(parts)


def _charge(characters: int) -> None:
    _made.set(_made.get(0) + characters)  # also when it is too much: what follows is not even tried
    if _made.get(0) > _MOST_MADE:
        raise TemplateInvalid(f"its filters make more than {_MOST_MADE} characters")


def _charged(filter_: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(filter_)
    def counted(*given: Any) -> Any:
        _charge(sum(len(one) for one in given if isinstance(one, str)))
        result = filter_(*given)
        _charge(len(result) if isinstance(result, str) else 0)
        return result

    return counted


def _environment() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # shell, not HTML; values are quoted by the filters `sh` and `ps`
        # Jinja's own begin of a comment is in many a script: `${#name}` is a length.
        comment_start_string="{%#",
        comment_end_string="#%}",
    )
    made.globals.clear()
    ours = {"sh": sh, "ps": ps, "join": join} | {name: made.filters[name] for name in _CASES}
    made.filters = {name: made.filters[name] for name in _FILTERS} | {n: _charged(one) for n, one in ours.items()}
    made.tests = {name: made.tests[name] for name in _TESTS}
    return made


_ENVIRONMENT: Final = _environment()


def parsed(text: str) -> nodes.Template:
    """The template's tree.

    Raises:
        TemplateInvalid: it is too long, its syntax is wrong, or it uses what templates have not.
    """
    if len(text) > LARGEST:
        raise TemplateInvalid(f"the template has {len(text)} characters; at most {LARGEST} are taken")
    _made.set(0)
    try:
        tree = _ENVIRONMENT.parse(text)
        # Unknown filters and tests are only noticed here.
        _ENVIRONMENT.compile(tree)
    except TemplateSyntaxError as error:
        raise TemplateInvalid(f"line {error.lineno}: {error.message}") from None
    except (TemplateError, RecursionError, SyntaxError, ValueError) as error:
        raise TemplateInvalid(f"the template cannot be read: {error}") from None
    for node in tree.find_all(nodes.Node):
        _refuse_foreign(node)
    return tree


def _refuse_foreign(node: nodes.Node) -> None:
    if not isinstance(node, _ALLOWED):
        raise TemplateInvalid(f"line {node.lineno}: templates have no {type(node).__name__.lower()}")
    if isinstance(node, nodes.For):
        if node.recursive or next(node.find_all(nodes.For), None):
            raise TemplateInvalid(f"line {node.lineno}: templates have no loop in a loop")
        if not isinstance(node.iter, nodes.Name | nodes.Getattr | nodes.Getitem):
            raise TemplateInvalid(f"line {node.lineno}: loops are over values alone")


def unknown_names(tree: nodes.Template, known: frozenset[str]) -> list[str]:
    """What a template uses that nobody gives it."""
    return sorted(find_undeclared_variables(tree) - known)


@lru_cache(maxsize=32)  # milliseconds, twice for each machine
def _compiled(text: str) -> Template:
    return _ENVIRONMENT.from_string(parsed(text))


def render(text: str, values: Mapping[str, Any]) -> str:
    """The script that a template makes of these values.

    Raises:
        TemplateInvalid: it is not one, uses what is not there, or makes too much.
    """
    template = _compiled(text)
    made: list[str] = []
    length = 0
    _made.set(0)
    try:
        for piece in template.generate(values):
            length += len(piece)
            if length > _LARGEST_SCRIPT:
                raise TemplateInvalid(f"the script is longer than {_LARGEST_SCRIPT} characters")
            made.append(piece)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise TemplateInvalid(f"the template cannot be rendered: {error}") from None
    return "".join(made)
