"""The audit chain: an entry that is changed, removed, moved or added by others is found."""

from datetime import timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from coordinator.accounts import chain
from coordinator.accounts.chain import Entry, Head, Verifier
from tests.samples.domain import NOW

KEY = b"k" * 32


def _chain(count: int, key: bytes = KEY) -> tuple[list[Entry], Head | None]:
    entries: list[Entry] = []
    last = chain.GENESIS
    for number in range(1, count + 1):
        at = NOW + timedelta(seconds=number)
        entry = Entry(number, at, "user:ada", "rest", "updated", f"pool {number}", "{}", '{"priority":1}')
        entry = msgspec.structs.replace(entry, mac=chain.mac(key, entry, last))
        entries.append(entry)
        last = entry.mac
    return entries, chain.head(key, count, last) if count else None


def _fault(entries: list[Entry], head: Head | None) -> str:
    verifier = Verifier(KEY)
    verifier.take(entries)
    return verifier.end(head).fault


@given(count=st.integers(0, 6))
def test_a_chain_as_it_was_written_is_good(count: int) -> None:
    entries, head = _chain(count)
    assert _fault(entries, head) == ""


@given(count=st.integers(1, 6), data=st.data())
def test_a_change_of_any_field_of_any_entry_is_found(count: int, data: st.DataObject) -> None:
    entries, head = _chain(count)
    which = data.draw(st.integers(0, count - 1))
    field = data.draw(st.sampled_from(["actor", "via", "action", "target", "before", "after", "mac"]))
    entries[which] = msgspec.structs.replace(entries[which], **{field: getattr(entries[which], field) + " "})
    assert f"entry {which + 1} is not as it was written" in _fault(entries, head)


@given(count=st.integers(1, 6), data=st.data())
def test_a_removed_entry_is_found_also_the_last(count: int, data: st.DataObject) -> None:
    entries, head = _chain(count)
    del entries[data.draw(st.integers(0, count - 1))]
    assert _fault(entries, head)
    assert _fault(entries, None) or not entries


@given(count=st.integers(2, 6), data=st.data())
def test_entries_in_another_order_are_found_also_with_numbers_that_fit(count: int, data: st.DataObject) -> None:
    entries, head = _chain(count)
    order = data.draw(st.permutations(range(count)).filter(lambda order: order != list(range(count))))
    moved = [msgspec.structs.replace(entries[old], number=new + 1) for new, old in enumerate(order)]
    assert _fault([entries[old] for old in order], head)
    assert _fault(moved, head)


def test_what_was_written_with_another_key_is_found() -> None:
    entries, head = _chain(3, b"x" * 32)
    assert "entry 1 is not as it was written" in _fault(entries, head)
    mine, _ = _chain(3)
    assert _fault(mine, head) == "the head of the log is not as it was written"
    assert _fault(mine, None) == "the head of the log is missing"


def test_what_is_named_as_a_secret_is_hidden_however_deep() -> None:
    given = {"proxy": {"Password": "p", "list": [{"api-key": "k"}]}, "webhook_secret": "", "flavor": "small"}
    hidden = {"proxy": {"Password": "***", "list": [{"api-key": "***"}]}, "webhook_secret": "", "flavor": "small"}
    assert chain.masked(given) == hidden
