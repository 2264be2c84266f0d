"""The client `hostler` as from another machine: by TLS, with a token and the CA's pin."""

import asyncio
import os
import shlex
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from coordinator.pki import guard
from tests.simulation.enrolled import EnrolledFarm, enrolled_farm


async def hostler(*arguments: str, **environment: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from hostler.cli.main import main; main()",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    said, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(), errors.decode()


def beside(one: EnrolledFarm) -> tuple[str, str]:
    """On the coordinator's own machine no token is needed."""
    return "--coordinator", f"127.0.0.1:{one.grpc_port}"


async def make_token(one: EnrolledFarm, name: str = "laptop") -> tuple[Path, str]:
    """The file with a new token, and the pin that is told with it."""
    code, said, told = await hostler("token", "make", name, "--days", "1", *beside(one))
    assert code == 0
    file = one.directory / f"{name}.token"
    file.write_text(said)
    assert f"--coordinator {one.clients} --token-file FILE --ca-pin sha256:" in told
    return file, told.split("--ca-pin ")[1].strip()


async def test_a_token_opens_what_the_client_can_do_and_watch(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        token, pin = await make_token(one)
        away = ("--coordinator", one.clients, "--token-file", str(token), "--ca-pin", pin)
        code, said, errors = await hostler("fleet", "status", *away)
        assert (code, errors) == (0, "")
        assert "no host has connected yet" in said
        code, said, _ = await hostler("token", "list", *away)
        assert "laptop" in said
        environment = {
            "HOSTLER_COORDINATOR": f"localhost:{one.clients_port}",
            "HOSTLER_TOKEN_FILE": str(token),
            "HOSTLER_CA_PIN": pin,
        }
        assert (await hostler("job", "list", **environment))[0] == 0
        watching = asyncio.create_task(hostler("watch", **environment))
        await asyncio.sleep(1)
        await one.stop("coordinator")
        code, _, errors = await watching
        assert code == 3
        await one.start_coordinator()


async def test_a_token_that_is_missing_wrong_expired_or_revoked_says_so(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        token, pin = await make_token(one)
        to = ("--coordinator", one.clients)
        ask = ("job", "list", *to, "--ca-pin", pin, "--token-file")
        code, _, errors = await hostler("job", "list", *to, "--ca-pin", pin)
        assert (code, "--token-file is missing" in errors) == (2, True)
        typo = tmp_path / "typo"
        typo.write_text(token.read_text()[:-2])
        code, _, errors = await hostler(*ask, str(typo))
        assert (code, "mistyped" in errors) == (2, True)
        code, _, errors = await hostler(
            "job", "list", *to, "--token-file", str(token), "--ca-pin", "sha256:" + 64 * "0"
        )
        assert (code, "is not the coordinator with the CA" in errors) == (1, True)
        one.ahead += timedelta(hours=25)
        code, _, errors = await hostler(*ask, str(token))
        assert (code, "the token 'laptop' expired at" in errors) == (1, True)
        one.ahead = timedelta()
        assert (await hostler("token", "revoke", "laptop", *beside(one)))[0] == 0
        code, _, errors = await hostler(*ask, str(token))
        assert (code, "was revoked, or is of another installation" in errors) == (1, True)
        code, _, errors = await hostler("token", "revoke", "laptop", *beside(one))
        assert (code, "there is no token 'laptop'" in errors) == (1, True)


async def test_the_printed_line_enrols_a_host(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        code, said, told = await hostler("host", "invite", "host-1", *beside(one))
        assert (code, said.count("\n")) == (0, 1)
        assert "run this on host-1 as root" in told
        config = tmp_path / "agent.toml"
        config.write_text(f'data_dir = "{tmp_path}/host-1"\n[host]\nname = "host-1"\n[simulated]\n')
        line = shlex.split(said)
        assert line[:2] == ["hostler-agent", "enrol"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agent.main", *line[1:], "--config", str(config), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        assert f"enrolled as 'host-1'; the agent will connect to 127.0.0.1:{one.agents_port}" in out.decode()
        again = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agent.main", *line[1:], "--config", str(config), stderr=asyncio.subprocess.PIPE
        )
        _, errors = await again.communicate()
        assert again.returncode == 1
        assert b"this token was used at" in errors
        code, said, _ = await hostler("host", "revoke", "host-1", *beside(one))
        assert (code, said) == (0, "revoked host-1\n")
        code, _, told = await hostler("host", "revoke", "host-1", *beside(one))
        assert (code, "has no certificate and no open invitation" in told) == (1, True)


async def test_a_watch_tells_nothing_more_when_its_token_is_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_STILL_GOOD_SECONDS", 0.0)
    async with enrolled_farm(tmp_path) as one:
        await one.declare()
        token, pin = await make_token(one)
        away = ("--coordinator", one.clients, "--token-file", str(token), "--ca-pin", pin)
        watching = asyncio.create_task(hostler("watch", "--json", *away))
        jobs = [one.queue(["nobody-has-this"])]
        await asyncio.sleep(1.0)
        assert (await hostler("token", "revoke", "laptop", *beside(one)))[0] == 0
        while not watching.done():  # whatever happens next is not told to it
            jobs.append(one.queue(["nobody-has-this"]))
            await asyncio.wait({watching}, timeout=0.2)
        code, _, errors = await watching
        assert (code, "was revoked, or is of another installation" in errors) == (1, True)
        for job in jobs:
            one.forge.cancel_job(job.id)
        await one.assert_nothing_left()
