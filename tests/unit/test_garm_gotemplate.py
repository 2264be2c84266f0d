"""GARM's install templates in our language make what GARM makes of them; what is not known is told."""

import pytest

from coordinator.templates.check import check_text
from coordinator.templates.language import render
from coordinator.templates.values import sample
from hostler.garm.gotemplate import NotTranslated, is_go, translated
from providers.exec.spec import Tool
from tests.samples.garm import TEMPLATE

TOOL = Tool("linux", "x64", "https://dl.example/r.tar.gz", "r.tar.gz", "a-token", "ab" * 32)


def made(text: str, **more: object) -> str:
    values = sample("github", "linux", tool=TOOL).by_name() | {"extra_context": {"zone": "b"}} | more
    return render(translated(text), values)


def test_what_people_have_derived_from_garms_own_is_taken_when_it_is_saved() -> None:
    assert is_go(TEMPLATE)
    check_text(translated(TEMPLATE), "github", "linux")
    assert made(TEMPLATE) == (
        "#!/bin/bash\n"
        'TOKEN="header.claims.seal" # of runner-aaaabbbbcccc\n'
        'curl -H "Authorization: Bearer $TOKEN" "https://hostler.example/api/v1/metadata/credentials/runner" '
        "-o /home/runner/.runner\n"
        "echo ${#TOKEN} b\n"
    )


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("{{ .FileName }} {{.DownloadURL}} {{ .TempDownloadToken }}", "r.tar.gz https://dl.example/r.tar.gz a-token"),
        ("{{ .RepoURL }} {{ .RunnerLabels }}", "https://forge.example/octo/widgets linux,self-hosted"),
        (
            "{{ .UseJITConfig }} {{ .AgentShell }} {{ eq .FileName .RepoURL }} {{ .RunnerName }}",
            "true false false runner-aaaabbbbcccc",
        ),
        ("a{{/* said by nobody */}}b", "ab"),
        ("a \n {{- /* nor here */ -}} \n b", "ab"),
        ("a {{- .RunnerGroup -}} b", "arunnerb"),
        ('x{{ if eq .RunnerUsername "root" "runner" }}1{{ else if .AgentMode }}2{{ else }}3{{ end }}', "x1"),
        ('{{ if and (ne .FileName "") (not .AgentMode) }}yes{{ end }}', "yes"),
        ("{{ if or .AgentURL .CABundle }}yes{{ end }}", ""),
        ('{{ .ExtraContext.zone }}{{ .ExtraContext.nothing }}{{ index .ExtraContext "zone" }}', "bb"),
        ('{{ .AgentMode | not }}{{ "{{" }} {{ `a\\b` }} {{ "\\t" }}', "true{{ a\\b \t"),
        ("{% raw %} {# no comment #} ${#name}", "{% raw %} {# no comment #} ${#name}"),
        ("{{ len .FileName }}", "8"),
    ],
)
def test_it_makes_what_garm_makes(text: str, script: str) -> None:
    assert made(text) == script


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n{{ range .ExtraContext }}x{{ end }}", "line 2: 'range' cannot be translated"),
        ("{{ .Instance.Name }}", "line 1: '.Instance.Name' is nothing"),
        ("{{ printf `%s` .FileName }}", "'printf' of 2"),
        ("{{ .FileName .DownloadURL }}", "one value is needed"),
        ("{{ (eq .FileName `a` }}", "not closed"),
        ("{{ $x := .FileName }}", r"'\$' is not understood"),
        ('{{ "a\\q" }}', "is not understood"),
        ("{{ }}", "one value is needed"),
    ],
)
def test_what_cannot_be_said_in_our_language_is_told(text: str, reason: str) -> None:
    with pytest.raises(NotTranslated, match=reason):
        translated(text)


@pytest.mark.parametrize("text", ["#!/bin/sh\n", "{{ runner_name | sh }}", "{% if tool_url %}x{% endif %}", "a.b .c"])
def test_what_is_in_our_language_already_is_no_go(text: str) -> None:
    assert not is_go(text)
