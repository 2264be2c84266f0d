"""The calls on LXD's REST API that the provider makes, through pylxd. Blocks; errors are pylxd's own."""

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from ipaddress import IPv4Address
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec
from pylxd import Client
from pylxd.exceptions import LXDAPIException, NotFound

from providers.contract import ProviderError

_SECONDS: Final = 30  # for an instance to start, to stop, and to be free of what LXD itself does with it
_PAUSE_SECONDS: Final = 0.1
_LOG_CHARACTERS: Final = 500


class StartFailed(ProviderError):
    """An instance that was made does not start."""


class Instance(msgspec.Struct, frozen=True):
    """An instance as LXD shows it, with what profiles add left out."""

    name: str
    status: str
    last_used_at: datetime  # when it was last started
    config: dict[str, str]
    devices: dict[str, dict[str, str]]

    @property
    def port(self) -> str:
        """The host's side of its link; empty when it has none, or LXD has taken it away."""
        return self.config.get("volatile.eth0.host_name", "")

    @property
    def address(self) -> IPv4Address | None:
        given = self.devices.get("eth0", {}).get("ipv4.address")
        return IPv4Address(given) if given else None

    @property
    def is_running(self) -> bool:
        return self.status != "Stopped"


class Image(msgspec.Struct, frozen=True):
    fingerprint: str
    type: str
    architecture: str
    aliases: list[dict[str, str]] = []
    properties: dict[str, str] = {}

    @property
    def names(self) -> list[str]:
        """All that a pool may call it."""
        return [*(alias["name"] for alias in self.aliases), self.fingerprint]


def instances(client: Client) -> list[Instance]:
    return msgspec.convert(_metadata(client.api.instances.get(params={"recursion": 1})), list[Instance])


def instance(client: Client, name: str) -> Instance | None:
    try:
        return msgspec.convert(_metadata(client.api.instances[name].get()), Instance)
    except NotFound:
        return None


def process(client: Client, name: str) -> int:
    """What a running instance is on its host; below 1 where it is not running."""
    return int(_metadata(client.api.instances[name].state.get())["pid"])


def images(client: Client) -> list[Image]:
    return msgspec.convert(_metadata(client.api.images.get(params={"recursion": 1})), list[Image])


def add_image(client: Client, body: Iterable[bytes], headers: dict[str, str]) -> str:
    """Have LXD take an image into its store; returns its fingerprint. LXD's REST API, POST /1.0/images."""
    answer = client.api.images.post(data=body, headers=headers).json()
    return str(client.operations.wait_for_operation(answer["operation"]).metadata["fingerprint"])


def drop_image(client: Client, fingerprint: str) -> None:
    """Absent already: fine. Instances made of it do not need it."""
    try:
        _wait(client, client.api.images[fingerprint].delete())
    except NotFound:
        return


def create(client: Client, body: dict[str, Any]) -> None:
    _wait(client, client.api.instances.post(json=body))


def start(client: Client, name: str) -> None:
    """
    Raises:
        StartFailed: with what LXD's log of the instance says, which goes with the instance.
    """
    try:
        _wait(client, client.api.instances[name].state.put(json={"action": "start", "timeout": _SECONDS}))
    except LXDAPIException as error:
        raise StartFailed(f"LXD cannot start '{name}': {error}{_log_of(client, name)}") from error


def stop(client: Client, name: str) -> None:
    """Power off at once; stopped already: fine."""
    request = {"action": "stop", "force": True, "timeout": _SECONDS}
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            _once_free(lambda: _wait(client, client.api.instances[name].state.put(json=request)))
        except LXDAPIException as error:
            now = instance(client, name)
            if now is None or not now.is_running:
                return
            # A virtual machine that does not quite start is both for a while.
            if "already stopped" not in str(error) or time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(_PAUSE_SECONDS)


def delete(client: Client, name: str) -> None:
    """Absent already: fine. Stopped again where LXD finds it running after all."""
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            _once_free(lambda: _wait(client, client.api.instances[name].delete()))
        except NotFound:
            return
        except LXDAPIException as error:
            if "is running" not in str(error) or time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(_PAUSE_SECONDS)
        stop(client, name)


def set_keys(client: Client, name: str, keys: dict[str, str]) -> None:
    """Change configuration keys; an empty value removes one."""
    try:
        _once_free(lambda: client.api.instances[name].patch(json={"config": keys}))
    except LXDAPIException:
        # Of changed `user.*` keys LXD tells the agent of its own in a running virtual machine, after it has written
        # them, and fails where there is no such agent.
        now = instance(client, name)
        if now is None or any(now.config.get(key, "") != value for key, value in keys.items()):
            raise


def put_files(client: Client, name: str, folder: PurePosixPath, files: dict[str, bytes]) -> None:
    """Write files into a container that is not running, readable by its root only."""
    endpoint = client.api.instances[name].files
    owner = {"X-LXD-uid": "0", "X-LXD-gid": "0"}
    for path in reversed([folder, *folder.parents[:-1]]):
        mode = "0700" if path == folder else "0755"
        endpoint.post(params={"path": str(path)}, headers=owner | {"X-LXD-type": "directory", "X-LXD-mode": mode})
    for file, content in files.items():
        endpoint.post(params={"path": str(folder / file)}, headers=owner | {"X-LXD-mode": "0600"}, data=content)


def console(client: Client, name: str) -> bytes:
    """What a container wrote to its console, as far as LXD keeps it. Nothing yet, or no such instance: empty."""
    try:
        return bytes(client.api.instances[name].console.get(is_api=False).content)
    except NotFound:
        return b""
    except LXDAPIException as error:
        # A container that has never been started has no log, of a virtual machine LXD 5.0 keeps none.
        if "no such file" in str(error) or "not container type" in str(error):
            return b""
        raise


def _log_of(client: Client, name: str) -> str:
    """The errors in the instance's log; of QEMU's, which has no other format, its end."""
    for file in ("lxc.log", "qemu.log"):
        try:
            lines = client.api.instances[name].logs[file].get(is_api=False).text.splitlines()
        except LXDAPIException:
            continue
        errors = [line.partition(" - ")[2].partition(" - ")[2] for line in lines if " ERROR " in line] or lines[-3:]
        if errors:
            return f": {'; '.join(errors)[:_LOG_CHARACTERS]}"
    return ""


def _once_free(call: Callable[[], object]) -> None:
    """What died or failed to start is cleaned up by LXD itself first, and what an agent that died had begun goes on."""
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            call()
        except LXDAPIException as error:
            if "is busy running a" not in str(error) or time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(_PAUSE_SECONDS)


def _metadata(response: Any) -> Any:
    return response.json()["metadata"]


def _wait(client: Client, response: Any) -> None:
    answer = response.json()
    if answer["type"] == "async":
        client.operations.wait_for_operation(answer["operation"])
