"""GitHub and GHES: the REST calls for self-hosted runners of a repository, with a token."""

import asyncio
import base64
import http
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import aiohttp
import gidgethub
import msgspec
from gidgethub import sansio
from gidgethub.aiohttp import GitHubAPI

from coordinator.domain.labels import Labels
from coordinator.forges import limits
from coordinator.forges.contract import (
    ForgeJob,
    ForgeRefused,
    ForgeRunner,
    ForgeUnavailable,
    OpenRuns,
    RunnerBusy,
    RunnerConfiguration,
    RunnerExists,
    Webhook,
)
from coordinator.forges.kept import Answer, KeptAnswers
from coordinator.store.catalog import ForgeAccess
from providers.exec.spec import Tool

PERMISSIONS: Final = "'Administration: read and write' and 'Actions: read'"
"""Of a fine-grained token or an App: the first for runners; the second to be told of a job that no webhook told of."""

HOOK_PERMISSIONS: Final = "'Webhooks: read and write'"
"""Besides, where webhooks are to be installed for people."""

_DEFAULT_GROUP: Final = 1
_WORK_FOLDER: Final = "_work"
_MOST_PAGES: Final = 200
"""An organization has at most 10,000 runners (GitHub, limits of self-hosted runners); links in a circle end here."""


_OPEN: Final = ("queued", "in_progress", "waiting")
_Shape = TypeVar("_Shape", bound=msgspec.Struct)


class _NotThere(ForgeRefused):
    """HTTP 404: also what a token gets that may not see it."""


class _Id(msgspec.Struct, frozen=True):
    id: int


class _Configured(msgspec.Struct, frozen=True):
    runner: _Id
    encoded_jit_config: str


class _Listed(msgspec.Struct, frozen=True):
    runners: list[ForgeRunner]


class _Page(msgspec.Struct, frozen=True):
    total_count: int
    runners: list[ForgeRunner]


class _HookConfig(msgspec.Struct, frozen=True):
    url: str = ""
    insecure_ssl: str | int = "0"


class _Hook(msgspec.Struct, frozen=True):
    id: int
    active: bool
    events: list[str]
    config: _HookConfig


class _Runs(msgspec.Struct, frozen=True):
    workflow_runs: list[_Id]


class _Jobs(msgspec.Struct, frozen=True):
    jobs: list[ForgeJob]


class _Api(GitHubAPI):
    budget_left = 1.0

    async def page(self, url: str) -> tuple[Any, str | None]:
        """The content at a URL and the URL of the next page, from the Link header."""
        content, following, _ = await self._make_request("GET", url, {}, b"", sansio.accept_format())
        return content, following

    async def page_if_changed(self, url: str, kept: Answer | None) -> tuple[Any, str | None, str] | None:
        """The content, the URL of the next page and the ETag; None when the page is as it was kept."""
        headers = sansio.create_headers(self.requester, accept=sansio.accept_format(), oauth_token=self.oauth_token)
        headers |= {"content-length": "0"} | ({"if-none-match": kept.etag} if kept else {})
        address = sansio.format_url(url, None, base_url=self.base_url)
        status, told, body = await self._request("GET", address, headers)
        self.budget_left = limits.left(told)
        if status == http.HTTPStatus.NOT_MODIFIED and kept:
            return None
        content, _, following = sansio.decipher_response(status, told, body)
        return content, following, told.get("etag", "")


class GitHub:
    """One repository at api.github.com or a GHES (its `api_base_url` ends with /api/v3).

    `slots` bounds the calls in flight; clients of one credential share it. `kept`: what need not be sent again.
    """

    def __init__(
        self, session: aiohttp.ClientSession, access: ForgeAccess, slots: asyncio.Semaphore, kept: KeptAnswers
    ) -> None:
        self._name = f"{access.endpoint.name} ({access.entity.full_name})"
        self._actions = f"/repos/{access.entity.owner}/{access.entity.name}/actions"
        self._path = f"{self._actions}/runners"
        self._hooks = f"/repos/{access.entity.owner}/{access.entity.name}/hooks"
        self._slots = slots
        self._kept = kept
        self._base_url = access.endpoint.api_base_url.rstrip("/")
        self._api = _Api(session, "hostler", oauth_token=access.token, base_url=self._base_url)

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

    async def runners(self) -> list[ForgeRunner]:
        """GitHub REST, list self-hosted runners: pages of 100, linked by the Link header, each with the total.

        Pages are cut from a list that goes on changing: a runner removed between two of them moves the rest up, and
        one falls into the gap. Such a list is taken for none at all.
        """
        found: dict[int, ForgeRunner] = {}
        totals: set[int] = set()
        url: str | None = f"{self._path}?per_page=100"
        for _ in range(_MOST_PAGES):
            if url is None:
                break
            async with self._asking("its runners"):
                content, url = await self._api.page(self._own(url))
                page = msgspec.convert(content, _Page)
            found |= {runner.id: runner for runner in page.runners}
            totals.add(page.total_count)
        if url is not None or totals != {len(found)}:
            counted = ", ".join(map(str, sorted(totals)))
            raise ForgeUnavailable(
                f"{self._name}: listed {len(found)} runners of {counted}: the list changed meanwhile"
            )
        return list(found.values())

    def _own(self, url: str) -> str:
        """The link, at our address of the forge: the token goes nowhere else, whatever the forge calls itself."""
        link = urlsplit(url)
        return urlsplit(self._base_url)._replace(path=link.path, query=link.query).geturl() if link.netloc else url

    async def job(self, forge_job_id: int) -> ForgeJob | None:
        """GitHub REST, get a job for a workflow run."""
        async with self._asking(f"job {forge_job_id}"):
            try:
                return msgspec.convert(await self._api.getitem(f"{self._actions}/jobs/{forge_job_id}"), ForgeJob)
            except gidgethub.BadRequest as error:
                if error.status_code == 404:
                    return None
                raise

    async def open_runs(self) -> OpenRuns:
        """GitHub REST, list workflow runs for a repository: with a status, 1,000 of them at most.

        A run is in progress as soon as one of its jobs has begun, though others are queued still.
        """
        found: dict[int, None] = {}
        for status in _OPEN:
            for page in await self._pages(f"{self._actions}/runs?status={status}&per_page=100", _Runs, "its open runs"):
                found |= dict.fromkeys(run.id for run in page.workflow_runs)
        return OpenRuns(tuple(found), self._api.budget_left)

    async def jobs_of_run(self, run_id: int) -> list[ForgeJob]:
        """GitHub REST, list jobs for a workflow run: of its latest attempt."""
        url = f"{self._actions}/runs/{run_id}/jobs?filter=latest&per_page=100"
        try:
            return [job for page in await self._pages(url, _Jobs, f"the jobs of run {run_id}") for job in page.jobs]
        except _NotThere:
            return []

    async def _pages(self, url: str, shape: type[_Shape], what: str) -> list[_Shape]:
        """All pages from a URL on; those that have not changed since the last time are not sent again."""
        found: list[_Shape] = []
        following: str | None = url
        while following is not None and len(found) < _MOST_PAGES:
            address = self._own(following)
            key = f"{self._base_url} {address}"
            kept = self._kept.get(key)
            async with self._asking(what):
                fresh = await self._api.page_if_changed(address, kept)
                if fresh is not None:
                    kept = Answer(fresh[2], msgspec.convert(fresh[0], shape), fresh[1])
            assert kept is not None  # noqa: S101 (nothing is unchanged that was not kept)
            if kept.etag:
                self._kept.keep(key, kept)
            found.append(kept.content)
            following = kept.following
        return found

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

    async def webhooks(self) -> list[Webhook]:
        """GitHub REST, list repository webhooks."""
        found: list[Webhook] = []
        url: str | None = f"{self._hooks}?per_page=100"
        for _ in range(_MOST_PAGES):
            if url is None:
                break
            async with self._asking("its webhooks"):
                content, url = await self._api.page(self._own(url))
                found += [_webhook(hook) for hook in msgspec.convert(content, list[_Hook])]
        return found

    async def install_webhook(self, url: str, secret: str, *, insecure_ssl: bool) -> Webhook:
        """GitHub REST, create a repository webhook."""
        config = {"url": url, "content_type": "json", "secret": secret, "insecure_ssl": "1" if insecure_ssl else "0"}
        body = {"name": "web", "active": True, "events": ["workflow_job"], "config": config}
        async with self._asking("a webhook"):
            return _webhook(msgspec.convert(await self._api.post(self._hooks, data=body), _Hook))

    async def remove_webhook(self, webhook_id: int) -> None:
        """GitHub REST, delete a repository webhook: 204."""
        async with self._asking(f"the removal of webhook {webhook_id}"):
            try:
                await self._api.delete(f"{self._hooks}/{webhook_id}")
            except gidgethub.BadRequest as error:
                if error.status_code != 404:
                    raise

    async def tools(self) -> list[Tool]:
        async with self._asking("the runner downloads"):
            return msgspec.convert(await self._api.getitem(f"{self._path}/downloads"), list[Tool])

    @asynccontextmanager
    async def _asking(self, what: str) -> AsyncIterator[None]:
        """One call, within the bound of calls in flight; the libraries' errors become ours. None carries the token."""
        async with self._slots:
            try:
                yield
            except gidgethub.BadRequest as error:
                raise self._refusal(error, what) from error
            except gidgethub.HTTPException as error:
                raise ForgeUnavailable(
                    f"{self._name}: HTTP {int(error.status_code)}, asked for {what}",
                    retry_after=limits.told(error.headers),
                ) from error
            except (aiohttp.ClientError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
                raise ForgeUnavailable(f"{self._name}: no answer ({reason}), asked for {what}") from error
            except (KeyError, TypeError, ValueError, RecursionError, msgspec.DecodeError) as error:
                raise ForgeUnavailable(f"{self._name}: an answer that is none, asked for {what}: {error}") from error

    def _refusal(self, error: gidgethub.BadRequest, what: str) -> ForgeRefused | ForgeUnavailable:
        status = int(error.status_code)
        limited = isinstance(error, gidgethub.RateLimitExceeded) or "limit" in str(error).lower()
        if status == 429 or (status == 403 and limited):
            return ForgeUnavailable(
                f"{self._name}: rate limit reached (HTTP {status}), asked for {what}",
                retry_after=limits.told(error.headers) or limits.UNTOLD,
            )
        hints = {
            401: "the token is wrong or expired: renew it and apply it again",
            403: f"the token lacks a permission: on the repository it needs {_permissions(what)}",
            404: "check owner, name and api_base_url, and that the token may see the repository",
        }
        kind = _NotThere if status == http.HTTPStatus.NOT_FOUND else ForgeRefused
        return kind(f"{self._name}: HTTP {status} {error}, asked for {what}", hint=hints.get(status, ""))


def _permissions(what: str) -> str:
    return HOOK_PERMISSIONS if "webhook" in what else PERMISSIONS


def _webhook(hook: _Hook) -> Webhook:
    insecure = str(hook.config.insecure_ssl) == "1"
    return Webhook(hook.id, hook.config.url, hook.active, hook.events, insecure)


def _files(encoded: str) -> dict[str, bytes]:
    """The files of a just-in-time configuration: base64 of a JSON map of names to base64 (actions/runner)."""
    listed = msgspec.json.decode(base64.b64decode(encoded), type=dict[str, str])
    return {name: base64.b64decode(content) for name, content in listed.items()}
