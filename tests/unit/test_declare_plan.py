"""The plan of a document: what it creates, changes, removes and leaves; and that an export changes nothing."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.declare import Declaration
from coordinator.declare_base import SECRET_KEYS
from coordinator.declare_plan import KINDS, Action, AnyDeclared, Declarations, DeclaredTwice, Difference, plan
from coordinator.domain.fleet import EntityKind
from coordinator.exporting import exported, keys
from hostler import config
from hostler.cli.document import SECRETS
from tests.samples.declared import catalogues, without_secrets
from tests.samples.store import DOCUMENT, FORGE_TOKEN, WEBHOOK_SECRET

NOTHING: Declarations = {}


def _document(text: str) -> Declaration:
    return config.parse(text, Declaration, "document")


def _declaration(there: Declarations) -> Declaration:
    return Declaration(**{kind: list(objects.values()) for kind, objects in there.items()})  # type: ignore[arg-type]


def _as_there(declared: Declaration) -> Declarations:
    found: dict[str, dict[str, AnyDeclared]] = {}
    for name, kind in KINDS.items():
        found[name] = {f"{name}-{i}": kind.normal(one) for i, one in enumerate(getattr(declared, name))}
    return found


def test_every_table_of_a_document_is_planned() -> None:
    assert set(KINDS) == {field.name for field in msgspec.structs.fields(Declaration)}


@given(catalogues())
def test_an_export_changes_nothing_and_holds_no_secret(there: Declarations) -> None:
    document = exported(there)
    assert "planted" not in document
    made = plan(there, _document(document), prune=True)
    assert made.lines == []
    assert len(made.steps) == sum(map(len, there.values()))


@given(catalogues())
def test_an_export_says_everything_but_secrets(there: Declarations) -> None:
    read = _document(exported(there))
    for name, objects in there.items():
        assert getattr(read, name) == [without_secrets(one) for one in objects.values()]


@given(catalogues(), catalogues(), st.booleans())
def test_what_a_plan_leads_to_needs_no_other_one(there: Declarations, wanted: Declarations, prune: bool) -> None:
    declared = _declaration(wanted)
    made = plan(there, declared, prune=prune)
    after = {name: dict(objects) for name, objects in there.items()}
    for number, step in enumerate(made.steps):
        if step.action is Action.REMOVE:
            del after[step.kind][step.row_id]
        else:
            after[step.kind][step.row_id or f"new-{number}"] = KINDS[step.kind].normal(step.declared)
    assert plan(after, declared, prune=prune).lines == []
    if prune:
        assert sum(map(len, after.values())) == sum(map(len, wanted.values()))
    else:
        assert not any(step.action is Action.REMOVE for step in made.steps)


@given(catalogues(), catalogues())
def test_no_plan_shows_a_secret(there: Declarations, wanted: Declarations) -> None:
    made = plan(there, _declaration(wanted), prune=True)
    for step in made.steps:
        assert "planted" not in "".join(one.before + one.after for one in step.differences)


@pytest.mark.parametrize("secret", SECRETS)
def test_what_looks_like_a_reference_to_a_secret_stays_what_it_is(secret: str) -> None:
    there = _as_there(_document(DOCUMENT + f'extra_specs = {{ a = [{{ {secret}_file = "x" }}] }}'))
    assert f'extra_specs_json = "{{\\"a\\":[{{\\"{secret}_file' in exported(there)
    assert plan(there, _document(exported(there)), prune=False).lines == []


def test_what_is_new_is_created_after_what_it_refers_to() -> None:
    made = plan(NOTHING, _document(DOCUMENT), prune=False)
    assert [(step.action, step.kind) for step in made.steps] == [
        (Action.CREATE, kind) for kind in ("endpoint", "credentials", "flavor", "repository", "pool")
    ]
    assert Difference("token", "", '"***"') in made.steps[1].differences
    assert FORGE_TOKEN not in str(made.steps[1].differences)


def test_what_is_removed_goes_before_what_it_refers_to() -> None:
    there = _as_there(_document(DOCUMENT))
    made = plan(there, _document('[[flavor]]\nname = "large"\nvcpus = 1\nmemory_mib = 64\ndisk_gib = 1'), prune=True)
    assert made.lines == [
        "flavor large: created",
        "pool linux: removed",
        "repository Octo/Widgets: removed",
        "flavor small: removed",
        "credentials token: removed",
        "endpoint forge: removed",
    ]


def test_a_change_is_told_key_by_key_and_a_secret_is_masked() -> None:
    there = _as_there(_document(DOCUMENT))
    other = DOCUMENT.replace("max_runners = 3", "max_runners = 9").replace(WEBHOOK_SECRET, "another secret of 24 ch.")
    changing = plan(there, _document(other), prune=False).changing
    assert [(step.name, step.differences) for step in changing] == [
        ("Octo/Widgets", (Difference("webhook_secret", '"***"', '"***"'),)),
        ("linux", (Difference("max_runners", "3", "9"),)),
    ]


def test_secrets_within_extra_specs_are_masked() -> None:
    there = _as_there(_document(DOCUMENT))
    other = DOCUMENT + 'extra_specs = { zone = "b", ssh = { password = "hush" } }'
    (step,) = plan(there, _document(other), prune=False).changing
    assert step.differences == (Difference("extra_specs", "{}", '{"zone":"b","ssh":{"password":"***"}}'),)


def test_a_secret_that_is_left_out_stays_as_it_is() -> None:
    there = _as_there(_document(DOCUMENT))
    left_out = DOCUMENT.replace(f'token = "{FORGE_TOKEN}"', "").replace(f'webhook_secret = "{WEBHOOK_SECRET}"', "")
    assert plan(there, _document(left_out), prune=True).lines == []


def test_another_spelling_of_a_repository_is_the_same_one() -> None:
    there = _as_there(_document(DOCUMENT))
    other = DOCUMENT.replace('"Octo"', '"OCTO"').replace('"Octo/Widgets"', '"octo/WIDGETS"')
    assert plan(there, _document(other), prune=True).lines == []


def test_entities_that_get_no_runners_are_told_with_the_reason() -> None:
    acme = '[[organization]]\nendpoint = "forge"\nname = "acme"\ncredentials = "token"\n'
    there = _as_there(_document(DOCUMENT))
    assert plan(there, _document(DOCUMENT), prune=False).unserved == ()
    (told,) = plan(there, _document(acme), prune=False).unserved
    assert told.startswith("organization acme: runners of organizations cannot be registered")


def test_two_tables_of_one_object_are_refused() -> None:
    twice = DOCUMENT + '[[endpoint]]\nname = "forge"\nbase_url = "https://other.example"'
    with pytest.raises(DeclaredTwice, match="endpoint forge is declared twice"):
        plan(NOTHING, _document(twice), prune=False)


def test_the_keys_that_may_be_declared_are_told() -> None:
    told = keys(Declaration)
    assert {"endpoint.name", "pool.extra_specs", "credentials.token"} <= set(told)
    assert {key for key in told if key.partition(".")[2] in SECRET_KEYS} == {
        "credentials.private_key",
        "credentials.token",
        "proxy.password",
        *(f"{kind.table}.webhook_secret" for kind in EntityKind),
    }
