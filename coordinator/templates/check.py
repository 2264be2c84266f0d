"""What is asked of an install template before it is kept."""

import asyncio
import re
from contextlib import suppress
from typing import Final

from coordinator.templates.language import TemplateInvalid, parsed, render, unknown_names
from coordinator.templates.values import NAMES, sample
from providers.exec.spec import Tool

_PATIENCE_SECONDS: Final = 10.0
# A script without a first line that names something else is the shell's.
_OF_A_SHELL: Final = re.compile(r"#![ \t]*\S*/(env[ \t]+(-\S+[ \t]+)*)?(ba|da)?sh\b")
_TOOL: Final = Tool("linux", "x64", "https://forge.example/runner.tar.gz", "runner.tar.gz", "", "ab" * 32)
_TRIED_WITH: Final = {"with a runner to download": _TOOL, "with none to download": Tool()}


def check_text(text: str, forge_type: str, os_type: str) -> dict[str, str]:
    """Try a template without its shell: its syntax and its names. What it was tried with, to the script made of it.

    Raises:
        TemplateInvalid: what is wrong, and in which line.
    """
    unknown = unknown_names(parsed(text), NAMES)
    if unknown:
        raise TemplateInvalid(
            f"the template uses {', '.join(unknown)}, which it is not given",
            hint=f"there are {', '.join(sorted(NAMES))}",
        )
    made = {
        which: render(text, sample(forge_type, os_type, tool=tool).by_name()) for which, tool in _TRIED_WITH.items()
    }
    for which, script in made.items():
        if not script.strip():
            raise TemplateInvalid(f"{which}, the template makes an empty script")
    return made


async def check(text: str, forge_type: str, os_type: str) -> None:
    """Try a template, and the syntax of the scripts that it makes where a shell runs them.

    Raises:
        TemplateInvalid: what is wrong, and in which line.
    """
    for which, script in check_text(text, forge_type, os_type).items():
        if os_type == "linux" and (not script.startswith("#!") or _OF_A_SHELL.match(script)):
            await _check_shell(script, which)


async def _check_shell(script: str, which: str) -> None:
    shell = await asyncio.create_subprocess_exec(
        "/bin/bash", "--norc", "--noprofile", "-n",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env={"LC_ALL": "C"},
    )  # fmt: skip
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            _, said = await shell.communicate(script.encode())
    except TimeoutError:
        raise TemplateInvalid(f"{which}, bash does not come to an end with reading the script") from None
    finally:
        with suppress(ProcessLookupError):
            shell.kill()
    if shell.returncode:
        reason = said.decode(errors="replace").replace("/bin/bash: ", "").strip()
        raise TemplateInvalid(f"{which}, bash cannot read the script: {reason[:500]}")
