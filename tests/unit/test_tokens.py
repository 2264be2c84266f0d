"""Tokens of instances: for one machine, one purpose and a time; anything else opens nothing."""

import base64
import json
from datetime import timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.fleet import Entity, EntityKind
from coordinator.tokens import Bearer, InstanceTokens, TokenInvalid
from tests.samples.domain import calm, instance
from tests.samples.store import Clock

KEY = b"k" * 32
ENTITY = Entity("entity-1", "endpoint-1", EntityKind.REPOSITORY, "octo", "widgets", "credentials-1")


def _tokens(clock: Clock | None = None, key: bytes = KEY) -> InstanceTokens:
    return InstanceTokens(key, clock or Clock())


def _claims(**more: Any) -> dict[str, Any]:
    token = _tokens().mint(instance(), ENTITY)
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return {name: value for name, value in (claims | more).items() if value is not None}


def test_a_token_is_read_as_the_instance_it_was_minted_for() -> None:
    assert _tokens().read(_tokens().mint(instance(3, generation=4), ENTITY)) == Bearer("instance-3", attempt=4)


def test_the_claims_are_those_that_runners_know() -> None:
    assert _claims() | {"exp": 0} == {
        "iss": "hostler",
        "aud": "hostler:instance",
        "exp": 0,
        "id": "instance-1",
        "name": instance().name,
        "provider_id": "pool-small",
        "scope": "repository",
        "entity": "octo/widgets",
        "create_attempt": 1,
        "forge_type": "github",
        "is_agent": False,
    }


def test_a_token_ends_five_minutes_after_the_bootstrap_time_by_our_clock() -> None:
    clock = Clock()
    tokens = _tokens(clock)
    token = tokens.mint(instance(), ENTITY)
    clock.now = instance().bootstrap_deadline + timedelta(minutes=5, microseconds=-1)
    assert tokens.read(token).instance_id == "instance-1"
    clock.move(seconds=1)
    with pytest.raises(TokenInvalid, match="expired"):
        tokens.read(token)


def test_another_key_opens_nothing() -> None:
    with pytest.raises(TokenInvalid):
        _tokens().read(_tokens(key=b"l" * 32).mint(instance(), ENTITY))


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "hostler:admin"},
        {"aud": None},
        {"iss": "garm"},
        {"iss": None},
        {"exp": None},
        {"id": None},
        {"create_attempt": None},
        {"create_attempt": "first"},
        {"nbf": 2**40},
    ],
    ids=str,
)
def test_a_token_for_something_else_opens_nothing_although_it_is_signed(change: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalid):
        _tokens().read(jwt.encode(_claims(**change), KEY, algorithm="HS256"))


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
def test_another_algorithm_opens_nothing(algorithm: str) -> None:
    key = "" if algorithm == "none" else KEY
    with pytest.raises(TokenInvalid):
        _tokens().read(jwt.encode(_claims(), key, algorithm=algorithm))


def test_claims_that_were_changed_open_nothing() -> None:
    head, _, seal = _tokens().mint(instance(), ENTITY).split(".")
    other = base64.urlsafe_b64encode(json.dumps(_claims(id="instance-2")).encode()).decode().rstrip("=")
    with pytest.raises(TokenInvalid):
        _tokens().read(f"{head}.{other}.{seal}")


@calm
@given(st.data())
def test_no_character_of_a_token_can_be_changed(data: st.DataObject) -> None:
    token = _tokens().mint(instance(), ENTITY)
    where = data.draw(st.integers(0, len(token) - 2))  # the last one holds bits that mean nothing
    other = data.draw(st.sampled_from("ABCxyz019-_. \n\0é").filter(lambda c: c != token[where]))
    with pytest.raises(TokenInvalid):
        _tokens().read(token[:where] + other + token[where + 1 :])


@calm
@given(st.text(max_size=100))
def test_any_text_opens_nothing(text: str) -> None:
    with pytest.raises(TokenInvalid):
        _tokens().read(text)


def test_no_error_repeats_the_token() -> None:
    token = _tokens(key=b"l" * 32).mint(instance(), ENTITY)
    with pytest.raises(TokenInvalid) as caught:
        _tokens().read(token)
    assert not [part for part in token.split(".") if part in str(caught.value)]
