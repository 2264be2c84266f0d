"""Reading configuration: addresses, loopback, and errors that lead to the key."""

from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.config import check, check_key, host_and_port, is_loopback, parse, web_address
from hostler.errors import ConfigError, HostlerError
from tests.samples.domain import calm


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: int = 1
    colour: Literal["red", "blue"] = "red"

    def __post_init__(self) -> None:
        check_key("size", lambda: check(self.size < 10, "must be below 10"))


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inner: Inner | None = None
    many: list[Inner] = []
    named: dict[str, Inner] = {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[inner]\nsise = 1", "f: key 'inner.sise': unknown; allowed here: size, colour"),
        ("[[many]]\n[[many]]\nsise = 1", "allowed here: size, colour"),
        ("[named.a]\nsise = 1", "allowed here: size, colour"),
        ("outer = 1", "f: key 'outer': unknown; allowed here: inner, many, named"),
        ("[inner]\ncolour = 'green'", "f: key 'inner.colour': Invalid enum value 'green'; allowed: blue, red"),
        ("[[many]]\ncolour = 'green'", "allowed: blue, red"),
        ("[inner]\nsize = 12", "f: key 'inner': size: must be below 10"),
        ("inner = 5", "f: key 'inner': Expected `object | null`, got `int`"),
        ("inner = ", "f: not valid TOML"),
    ],
)
def test_an_error_leads_to_the_key_and_says_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, Outer, "f")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("127.0.0.1:1", ("127.0.0.1", 1)), ("[::1]:65535", ("::1", 65535)), ("build-1:0", ("build-1", 0))],
)
def test_an_address_is_a_host_and_a_port(text: str, parts: tuple[str, int]) -> None:
    assert host_and_port(text) == parts


@calm
@given(st.text(max_size=20) | st.from_regex(r"[a-z.:\[\]]{0,8}:[0-9\u0660-\u0669]{0,7}", fullmatch=True))
def test_any_text_is_an_address_or_a_clear_error(text: str) -> None:
    said = ""
    try:
        host, port = host_and_port(text)
        assert host
        assert 0 <= port <= 65535
    except ValueError as error:
        said = str(error)
    assert not said or "is not HOST:PORT, for example" in said


@calm
@given(st.text(max_size=30) | st.text(max_size=30).map("http://".__add__))
def test_any_text_is_a_web_address_or_a_clear_error(text: str) -> None:
    said = ""
    try:
        web_address(text)
        assert text.lower().startswith(("http://", "https://"))
    except ValueError as error:
        said = str(error)
    assert not said or "http or https address" in said or "no user" in said


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("::1", True),
        ("0.0.0.0", False),  # noqa: S104 (asked about, not bound)
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_loopback_is_what_cannot_leave_the_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_an_error_shows_its_hint_and_one_given_wins() -> None:
    class Broken(HostlerError):
        code = "broken"
        hint = "mend it"

    assert str(Broken("it broke")) == "it broke (mend it)"
    assert str(Broken("it broke", hint="buy another")) == "it broke (buy another)"
    assert str(HostlerError("it broke")) == "it broke"
