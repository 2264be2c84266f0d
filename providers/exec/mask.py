"""Keeps secrets that an executable was given out of the texts that quote it."""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import msgspec

from providers.exec.spec import CloudSpec

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|KEY", re.IGNORECASE)
_SHORTEST_GUESS = 8  # a variable's name only hints at a secret: short values are rather settings
_SCRIPTS = ("runner_install_template", "pre_install_scripts")  # GARM's names, in base64
HIDDEN = "***"


class Mask:
    """Replaces each secret, also where it is percent-encoded or escaped as in JSON."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        self._forms = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str, *, cut: bool = False) -> str:
        """`cut`: the text's beginning is missing, so it may begin with the end of a secret."""
        if not self._forms:
            return text
        text = self._without_cut_secret(text) if cut else text
        # Scripts are long: a pattern of all that might be there takes tens of milliseconds to make.
        there = [form for form in self._forms if form in text]
        return re.sub("|".join(map(re.escape, there)), HIDDEN, text) if there else text

    def _without_cut_secret(self, text: str) -> str:
        longest = max((self._overlap(form, text) for form in self._forms), default=0)
        return text[longest:]

    @staticmethod
    def _overlap(form: str, text: str) -> int:
        """How much of the form's end the text begins with. Its first character is looked at first: forms are long."""
        return max(
            (length for length in range(1, len(form)) if form[-length] == text[:1] and text.startswith(form[-length:])),
            default=0,
        )


def secrets_of_spec(spec: CloudSpec) -> set[str]:
    tokens = {spec.instance_token, *(tool.temp_download_token for tool in spec.tools)}
    specs = secrets_of_specs(spec.extra_specs or None)
    return tokens | specs | _passwords(spec.proxy_config.http_proxy, spec.proxy_config.https_proxy)


def secrets_of_specs(specs: Mapping[str, Any] | None) -> set[str]:
    """Of a pool: values whose names say that they are secret, scripts (ours hold a machine's token), and the whole."""
    if not specs:
        return set()
    packed = base64.b64encode(msgspec.json.encode(specs)).decode()
    return {packed, *_named(specs)}


def _named(value: Any, *, is_secret: bool = False) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            told = bool(_SECRET_NAME.search(str(name))) or name in _SCRIPTS
            yield from _named(item, is_secret=is_secret or told)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _named(item, is_secret=is_secret)
    elif is_secret and isinstance(value, str) and len(value) >= _SHORTEST_GUESS:
        yield value


def secrets_of_environment(passed: Mapping[str, str]) -> set[str]:
    """Passwords of proxies, and the values whose names say that they are secret."""
    named = {v for k, v in passed.items() if _SECRET_NAME.search(k) and len(v) >= _SHORTEST_GUESS}
    return named | _passwords(*(v for k, v in passed.items() if k.lower().startswith(("http_proxy", "https_proxy"))))


def _passwords(*urls: str) -> set[str]:
    return {password for url in urls if (password := _password(url))}


def _password(url: str) -> str | None:
    try:
        return urlsplit(url if "://" in url else f"//{url}").password
    except ValueError:
        return None


def _forms(secret: str) -> set[str]:
    plain = unquote(secret)
    return {secret, plain, quote(plain, safe=""), json.dumps(secret)[1:-1], json.dumps(plain)[1:-1]}
