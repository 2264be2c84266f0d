"""The document of `hostler apply`: secrets come from where it names them, the rest arrives unchanged."""

import tomllib
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.cli.document import resolved
from hostler.errors import ConfigError
from hostler.toml import lines, written

VALUES = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.datetimes(timezones=st.just(UTC) | st.none())
    | st.dates()
    | st.times(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_what_is_written_reads_as_what_it_was(document: dict[str, Any]) -> None:
    assert tomllib.loads(written(document)) == document


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text(st.sampled_from('"\\\n\r\t')))
def test_a_text_of_many_lines_reads_as_what_it_was(text: str) -> None:
    assert tomllib.loads(lines("data", text)) == {"data": text}


def test_dates_and_infinities_are_written() -> None:
    document = {
        "at": datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        "on": date(2026, 1, 2),
        "by": time(3, 4),
        "up": float("inf"),
    }
    assert tomllib.loads(written(document)) == document


def apply(tmp_path: Path, text: str, **environment: str) -> dict[str, Any]:
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    return tomllib.loads(resolved(path, environment))


def test_secrets_are_read_from_files_and_environment(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text(" forge-token \n")
    (tmp_path / "hook").write_text("line1\nline2\r\n")
    document = apply(
        tmp_path,
        f"""
        [[credentials]]
        name = "main"
        token_file = "secrets/token"
        [[credentials]]
        name = "other"
        token_env = "OTHER"
        [[credentials]]
        name = "plain"
        token = "as it is"
        [[repository]]
        webhook_secret_file = "{tmp_path}/hook"
        private_key_file = "hook"
        ca_bundle_file = "hook"
        [deep.er]
        list = [{{webhook_secret_env = "OTHER"}}]
        other_file = "untouched"
        """,
        OTHER="other-token\n",
    )
    assert [entry["token"] for entry in document["credentials"]] == [" forge-token ", "other-token\n", "as it is"]
    kept = "line1\nline2"
    assert document["repository"] == [{"webhook_secret": kept, "private_key": kept, "ca_bundle": kept}]
    assert document["deep"]["er"] == {"list": [{"webhook_secret": "other-token\n"}], "other_file": "untouched"}
    assert "token_file" not in document["credentials"][0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('token_file = "absent"', "key 'credentials[0].token_file': there is no file"),
        ('token_file = "."', "cannot be read"),
        ('token_file = "empty"', "'empty' is empty"),
        ('token_file = "binary"', "holds something else than text"),
        ("token_file = 3", "must be the name of a file or of an environment variable"),
        ('token_env = ""', "must be the name of a file or of an environment variable"),
        ('token_env = "UNSET"', "environment variable 'UNSET' is not set; export it first"),
        ('token_env = "EMPTY"', "'EMPTY' is empty"),
        ('token_env = "BINARY"', "holds something else than text"),
        ('token = "a"\ntoken_env = "EMPTY"', "key 'credentials[0].token': given more than once (token, token_env)"),
        ('token_file = "empty"\ntoken_env = "EMPTY"', "given more than once (token_file, token_env)"),
    ],
)
def test_a_secret_that_cannot_be_had_is_told_with_its_key(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError) as refused:
        apply(tmp_path, f"[[credentials]]\n{line}", EMPTY="", BINARY="\udcff")
    assert reason in str(refused.value)
    assert "fleet.toml" in str(refused.value)


def test_a_document_that_cannot_be_read_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        resolved(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        resolved(tmp_path)
    with pytest.raises(ConfigError, match="not valid TOML"):
        apply(tmp_path, "[[pool]")


def test_a_template_comes_from_a_file_to_its_last_byte(tmp_path: Path) -> None:
    (tmp_path / "linux.sh").write_bytes(b"#!/bin/sh\r\necho {{ runner_name }}\n\n")
    (tmp_path / "fleet.toml").write_text('[[template]]\nname = "mine"\ndata_file = "linux.sh"\n')
    read = tomllib.loads(resolved(tmp_path / "fleet.toml"))
    assert read == {"template": [{"name": "mine", "data": "#!/bin/sh\r\necho {{ runner_name }}\n\n"}]}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('data_file = "nothing"', "there is no file"),
        ("data_file = 3", "must be the name of a file"),
        ('data = "x"\ndata_file = "y"', "given more than once"),
    ],
)
def test_a_template_that_cannot_be_had_is_told(tmp_path: Path, said: str, reason: str) -> None:
    (tmp_path / "fleet.toml").write_text(f"[[template]]\n{said}\n")
    with pytest.raises(ConfigError, match=rf"key 'template\[0\]\.data(_file)?': .*{reason}"):
        resolved(tmp_path / "fleet.toml")


def test_elsewhere_a_file_of_data_is_a_value_like_any_other(tmp_path: Path) -> None:
    text = '[[pool]]\nextra_specs = { data_file = "x" }\n'
    (tmp_path / "fleet.toml").write_text(text)
    assert tomllib.loads(resolved(tmp_path / "fleet.toml")) == tomllib.loads(text)
