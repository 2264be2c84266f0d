"""GitHub and GHES: the REST calls for self-hosted runners of a repository, with a token."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import gidgethub
import msgspec
from gidgethub.aiohttp import GitHubAPI

from coordinator.domain.labels import Labels
from coordinator.forges.contract import (
    ForgeRefused,
    ForgeRunner,
    ForgeUnavailable,
    RunnerBusy,
    RunnerConfiguration,
    RunnerExists,
)
from coordinator.store.catalog import ForgeAccess
from providers.exec.spec import Tool

_DEFAULT_GROUP: Final = 1
_WORK_FOLDER: Final = "_work"


class _Id(msgspec.Struct, frozen=True):
    id: int


class _Configured(msgspec.Struct, frozen=True):
    runner: _Id
    encoded_jit_config: str


class _Listed(msgspec.Struct, frozen=True):
    runners: list[ForgeRunner]


class GitHub:
    """One repository at api.github.com or a GHES (its `api_base_url` ends with /api/v3)."""

    def __init__(self, session: aiohttp.ClientSession, access: ForgeAccess) -> None:
        self._name = f"{access.endpoint.name} ({access.entity.full_name})"
        self._path = f"/repos/{access.entity.owner}/{access.entity.name}/actions/runners"
        self._api = GitHubAPI(
            session, "hostler", oauth_token=access.token, base_url=access.endpoint.api_base_url.rstrip("/")
        )

    async def configure_runner(self, name: str, labels: Labels, group: str) -> RunnerConfiguration:
        """GitHub REST, generate-jitconfig: runner_group_id is required, 1 is the default group."""
        if group:
            raise ForgeRefused(
                f"the runner group '{group}' cannot be used for a repository",
                hint="repositories have only the default group: leave runner_group empty",
            )
        body = {
            "name": name,
            "runner_group_id": _DEFAULT_GROUP,
            "labels": sorted(labels),
            "work_folder": _WORK_FOLDER,
        }
        async with self._asking(f"a configuration for runner {name}"):
            try:
                answer = msgspec.convert(
                    await self._api.post(f"{self._path}/generate-jitconfig", data=body), _Configured
                )
            except gidgethub.BadRequest as error:
                if error.status_code == 409:
                    raise RunnerExists(f"{self._name}: there is a runner {name} already") from error
                raise
            return RunnerConfiguration(answer.runner.id, _files(answer.encoded_jit_config))

    async def runner_named(self, name: str) -> ForgeRunner | None:
        async with self._asking(f"runner {name}"):
            answer = await self._api.getitem(f"{self._path}{{?name}}", {"name": name})
            runners = msgspec.convert(answer, _Listed).runners
        return next((runner for runner in runners if runner.name == name), None)

    async def remove_runner(self, runner_id: int) -> None:
        """GitHub REST, delete a self-hosted runner: 204; 422 while it runs a job."""
        async with self._asking(f"the removal of runner {runner_id}"):
            try:
                await self._api.delete(f"{self._path}/{runner_id}")
            except gidgethub.BadRequest as error:
                if error.status_code == 404:
                    return
                if error.status_code == 422:
                    raise RunnerBusy(f"{self._name}: runner {runner_id} has a job") from error
                raise

    async def tools(self) -> list[Tool]:
        async with self._asking("the runner downloads"):
            return msgspec.convert(await self._api.getitem(f"{self._path}/downloads"), list[Tool])

    @asynccontextmanager
    async def _asking(self, what: str) -> AsyncIterator[None]:
        """Turn the libraries' errors into ours. None of them carries the token."""
        try:
            yield
        except gidgethub.RateLimitExceeded as error:
            raise ForgeUnavailable(f"{self._name}: rate limit reached, asked for {what}") from error
        except gidgethub.GitHubBroken as error:
            raise ForgeUnavailable(f"{self._name}: HTTP {int(error.status_code)}, asked for {what}") from error
        except gidgethub.BadRequest as error:
            raise self._refusal(error, what) from error
        except gidgethub.HTTPException as error:
            raise ForgeUnavailable(f"{self._name}: HTTP {int(error.status_code)}, asked for {what}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise ForgeUnavailable(f"{self._name}: no answer ({reason}), asked for {what}") from error
        except (KeyError, TypeError, ValueError, RecursionError, msgspec.DecodeError) as error:
            raise ForgeUnavailable(f"{self._name}: an answer that is none, asked for {what}: {error}") from error

    def _refusal(self, error: gidgethub.BadRequest, what: str) -> ForgeRefused | ForgeUnavailable:
        status = int(error.status_code)
        if status == 429 or (status == 403 and "limit" in str(error).lower()):
            return ForgeUnavailable(f"{self._name}: rate limit reached (HTTP {status}), asked for {what}")
        hints = {
            401: "the token is wrong or expired: renew it and apply it again",
            403: "the token lacks a permission: repository 'Administration: read and write' is needed",
            404: "check owner, name and api_base_url, and that the token may see the repository",
        }
        return ForgeRefused(f"{self._name}: HTTP {status} {error}, asked for {what}", hint=hints.get(status, ""))


def _files(encoded: str) -> dict[str, bytes]:
    """The files of a just-in-time configuration: base64 of a JSON map of names to base64 (actions/runner)."""
    listed = msgspec.json.decode(base64.b64decode(encoded), type=dict[str, str])
    return {name: base64.b64decode(content) for name, content in listed.items()}
