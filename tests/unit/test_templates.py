"""Install templates: what they may hold, what is refused when one is kept, and that no value gets out of its quotes."""

import shlex
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.templates.builtin import SYSTEMS, install_template, unit_file
from coordinator.templates.check import check
from coordinator.templates.language import LARGEST, TemplateInvalid, ps, render, sh
from tests.samples.domain import calm

ALL = [(forge, system) for forge, systems in SYSTEMS.items() for system in systems]


@pytest.mark.parametrize(("forge_type", "os_type"), ALL)
async def test_what_comes_with_hostler_passes_its_own_check(forge_type: str, os_type: str) -> None:
    await check(install_template(forge_type, os_type), forge_type, os_type)


@pytest.mark.parametrize(("forge_type", "os_type"), [("gitea", "windows"), ("github", "plan9"), ("svn", "linux")])
def test_systems_without_a_template_are_told_so(forge_type: str, os_type: str) -> None:
    with pytest.raises(TemplateInvalid, match=f"{forge_type} on {os_type}"):
        install_template(forge_type, os_type)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{% if tool_url %}", "line 1: Unexpected end of template"),
        ("#!/bin/sh\necho {{ tool_url", "line 2: "),
        ("{{ token | shell }}", "No filter named 'shell'"),
        ("{{ token is odd }}", "No test named 'odd'"),
        ("echo {{ tokn | sh }} {{ lables }}", "uses lables, tokn"),
        ("{{ token.upper() }}", "no call"),
        ("{{ token * 1000000 }}", "no mul"),
        ("{% set a = token %}{{ a }}", "no assign"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "no macro"),
        ("{% include '/etc/passwd' %}", "no include"),
        ("{% import 'os' as os %}", "no import"),
        ("{% for a in labels %}{% for b in labels %}{{ b }}{% endfor %}{% endfor %}", "no loop in a loop"),
        ("{% for a in labels recursive %}{{ loop(a) }}{% endfor %}", "no loop in a loop"),
        ("{% for a in 'many letters' %}{{ a }}{% endfor %}", "loops are over values alone"),
        ("{{ token.__class__.__mro__ }}", "unsafe"),
        ("{{ labels.nothing }}", "nothing"),
        ("{{ labels.x.y }}", "cannot be rendered"),
        ("{{ 'x' < 1 }}", "cannot be rendered"),
        ("x" * (LARGEST + 1), "at most"),
        ("{{ " + "(" * 2000 + "token" + ")" * 2000 + " }}", "cannot be read"),
        ("{%# all of it a comment #%}", "empty script"),
        ("#!/bin/bash\nif true; then\n", "with a runner to download, bash cannot read the script"),
        ("#!/usr/bin/env bash\necho 'open", "unexpected EOF"),
        ("#!/bin/sh\n{% if not tool_url %}fi{% endif %}", "with none to download, bash cannot read the script"),
    ],
)
async def test_a_template_that_would_fail_is_not_kept(text: str, reason: str) -> None:
    with pytest.raises(TemplateInvalid) as caught:
        await check(text, "github", "linux")
    assert reason.lower() in f"{caught.value} {caught.value.hint}".lower()


@pytest.mark.parametrize(
    ("text", "os_type"),
    [
        ("#!/bin/bash\nlabels=(a b); echo ${#labels[@]} {{ extra_context.mirror | sh }}\n", "linux"),
        ("{% for label in labels %}echo {{ label | sh }}; {% endfor %}", "linux"),
        ("#!/usr/bin/env python3\nprint('no shell', {{ runner_name | lower }!r})".replace("!r", "}"), "linux"),
        ("$x = {{ token | ps }}; if (", "windows"),  # there is nothing that could read it
        ("echo {{ extra_context.mirror | default('none') | sh }} {% if tool_token %}{% endif %}", "linux"),
    ],
)
async def test_a_template_that_can_be_rendered_is_taken(text: str, os_type: str) -> None:
    await check(text, "github", os_type)


async def test_a_template_may_leave_open_what_a_pool_does_not_say() -> None:
    text = "echo {% if extra_context.mirror is defined %}{{ extra_context.mirror | sh }}{% else %}none{% endif %}"
    assert render(text, {"extra_context": {}}) == "echo none"
    with pytest.raises(TemplateInvalid, match="mirror"):
        render("{{ extra_context.mirror }}", {"extra_context": {}})


def test_what_is_rendered_is_bounded_in_size_and_time() -> None:
    values = {"labels": ["x"] * 2000}
    body = "y" * 1000
    began = time.monotonic()
    with pytest.raises(TemplateInvalid, match="longer than"):
        render("{% for one in labels %}" + body + "{% endfor %}", values)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "expression",
    [
        "url" + "|join(url)" * 6 + "|length",
        "labels" + "|join(labels|join(url))|length",
        "labels|join(labels|join(labels|join(url)))|length",
        "url" + "|sh" * 40 + "|length",
        "'\\''" + "|ps" * 40 + "|length",
        "['a', 'b', 'c', 'd']|join(" + "['a', 'b', 'c', 'd']|join(" * 30 + "'" + "x" * 1000 + "'" + ")" * 31,
        "url" + "|upper" * 60_000,
    ],
)
def test_what_is_made_and_not_shown_is_bounded_too(expression: str) -> None:
    values = {"url": "https://ci.example/'" * 50, "labels": ["x" * 20] * 100}
    began = time.monotonic()
    with pytest.raises(TemplateInvalid):
        render("#!/bin/sh\n{{ " + expression + " }}", values)
    assert time.monotonic() - began < 5


def test_lists_are_joined_and_nothing_else_is() -> None:
    assert render("{{ labels|join(',') }}", {"labels": ["a", "b"]}) == "a,b"
    for wrong in ("abc", {"a": 1}, 7):
        with pytest.raises(TemplateInvalid):
            render("{{ labels|join(',') }}", {"labels": wrong})
    with pytest.raises(TemplateInvalid, match="no concat"):
        render("{{ a ~ a }}", {"a": "x"})


@calm
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60))
def test_a_word_of_the_shell_is_one_word_whatever_it_holds(value: str) -> None:
    assert shlex.split(sh(value)) == [value]


def test_a_shell_reads_the_word_back() -> None:
    evil = 'it\'s "$(touch /tmp/never)" `id` \\ %s \n $HOME'
    script = render("printf %s {{ value | sh }}", {"value": evil})
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == evil


def _read_powershell(literal: str) -> str:
    """A string in single quotes as PowerShell's language specification reads it (2.3.5.2)."""
    quotes = "'\u2018\u2019\u201a\u201b"
    assert literal[0] in quotes
    assert literal[-1] in quotes
    inner, read, at = literal[1:-1], "", 0
    while at < len(inner):
        if inner[at] in quotes:
            assert inner[at + 1] in quotes, "the string ends here"
            at += 1
        read += inner[at]
        at += 1
    return read


@calm
@given(st.text(st.sampled_from("a'\u2018\u2019\u201a\u201b\"$`;\n"), max_size=30))
def test_a_string_of_powershell_is_one_whatever_it_holds(value: str) -> None:
    assert _read_powershell(ps(value)) == value


@pytest.mark.parametrize(
    ("forge_type", "program"),
    [
        ("github", "actions-runner/run.sh"),
        ("gitea", "gitea-runner/gitea-runner daemon --once"),
        ("forgejo", "forgejo-runner/forgejo-runner one-job"),
    ],
)
def test_the_unit_starts_each_forges_program_for_one_job(forge_type: str, program: str) -> None:
    assert f"\nExecStart=/home/runner/{program}\n" in unit_file(forge_type, "runner")
