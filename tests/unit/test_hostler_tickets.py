"""Tokens that people copy: mistakes of the hand are told from everything else."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.tickets import SECRET_BYTES, Kind, TicketMistyped, check, digest, ticket

SECRETS = st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)
ALPHABET = string.ascii_lowercase + "234567"


@given(st.sampled_from(Kind), SECRETS)
def test_a_ticket_is_taken_as_it_was_given_with_blanks_and_capitals_forgiven(kind: Kind, secret: bytes) -> None:
    given_out = ticket(kind, secret)
    assert check(kind, f"  {given_out}\n") == given_out
    prefix, _, body = given_out.partition("_")
    assert check(kind, f"{prefix}_{body.upper()}") == given_out


@given(SECRETS, st.integers(0, 31), st.sampled_from(ALPHABET))
def test_any_one_wrong_character_is_found(secret: bytes, at: int, wrong: str) -> None:
    good = ticket(Kind.INVITATION, secret)
    start = len(good) - 32
    typo = good[: start + at] + wrong + good[start + at + 1 :]
    if typo == good:
        assert check(Kind.INVITATION, typo) == good
    else:
        with pytest.raises(TicketMistyped, match="its checksum is wrong"):
            check(Kind.INVITATION, typo)


@given(SECRETS, st.integers(0, 30))
def test_two_swapped_characters_are_found(secret: bytes, at: int) -> None:
    good = ticket(Kind.ADMIN, secret)
    i = len(good) - 32 + at
    swapped = good[:i] + good[i + 1] + good[i] + good[i + 2 :]
    if swapped != good:
        with pytest.raises(TicketMistyped, match="its checksum is wrong"):
            check(Kind.ADMIN, swapped)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must begin with 'hostler-invite_'"),
        ("hostler-invite_", "0 characters after"),
        (ticket(Kind.INVITATION, bytes(16))[:-1], "31 characters after"),
        (ticket(Kind.INVITATION, bytes(16))[:-1] + "1", "characters that no token has"),
        (ticket(Kind.INVITATION, bytes(16))[:-1] + "é", "characters that no token has"),
        (ticket(Kind.ADMIN, bytes(16)), "this token is a token of the admin client, not an invitation of a host"),
    ],
)
def test_what_is_no_ticket_says_why(text: str, said: str) -> None:
    with pytest.raises(TicketMistyped, match=said):
        check(Kind.INVITATION, text)


def test_a_ticket_for_one_thing_is_none_for_another() -> None:
    secret = bytes(range(16))
    body = ticket(Kind.ADMIN, secret).partition("_")[2]
    with pytest.raises(TicketMistyped, match="checksum"):
        check(Kind.INVITATION, f"hostler-invite_{body}")
    assert digest(ticket(Kind.ADMIN, secret)) != digest(ticket(Kind.INVITATION, secret))
