"""What the calls on LXD's REST API make of its answers."""

from typing import Any

import pytest
from pylxd.exceptions import LXDAPIException

from providers.lxd import api


class Answer:
    def __init__(self, status: int, body: dict[str, Any]) -> None:
        self.status_code = status
        self.text = repr(body)
        self._body = body

    def json(self) -> dict[str, Any]:
        return self._body


class RunningMachine:
    """A virtual machine of LXD without LXD's agent in it: who changes a `user.*` key of it is told of a failure."""

    def __init__(self, *, writes: bool) -> None:
        self._writes = writes
        self.config = {"user.hostler.id": "1", "cloud-init.user-data": "#!/bin/sh"}
        self.api = self
        self.instances = {"one": self}

    def get(self) -> Answer:
        shown = {"name": "one", "status": "Running", "last_used_at": "2026-01-02T03:04:05Z", "devices": {}}
        return Answer(200, {"metadata": shown | {"config": self.config}})

    def patch(self, json: dict[str, dict[str, str]]) -> Answer:
        if self._writes:
            self.config = {key: value for key, value in (self.config | json["config"]).items() if value}
        raise LXDAPIException(Answer(400, {"type": "error", "error": "LXD VM agent isn't currently running"}))


KEYS = {"user.hostler.started": "2026-01-02T03:04:05+00:00", "cloud-init.user-data": ""}


def test_keys_that_are_written_are_set_though_the_machine_cannot_be_told() -> None:
    machine = RunningMachine(writes=True)
    api.set_keys(machine, "one", KEYS)
    assert machine.config == {"user.hostler.id": "1", "user.hostler.started": KEYS["user.hostler.started"]}


def test_keys_that_are_not_written_are_an_error() -> None:
    with pytest.raises(LXDAPIException, match="agent isn't currently running"):
        api.set_keys(RunningMachine(writes=False), "one", KEYS)


class HalfStarted:
    """A virtual machine that LXD gave up starting, and that for a while is running and is not, by whom one asks."""

    def __init__(self, refusals: list[str]) -> None:
        self._refusals = refusals
        self.asked: list[str] = []
        self.api = self.state = self
        self.instances = {"one": self}

    def get(self) -> Answer:
        status = "Running" if self._refusals else "Stopped"
        shown = {"name": "one", "status": status, "last_used_at": "2026-01-02T03:04:05Z", "devices": {}, "config": {}}
        return Answer(200, {"metadata": shown})

    def put(self, json: dict[str, Any]) -> Answer:
        return self._answer(str(json["action"]))

    def delete(self) -> Answer:
        return self._answer("delete")

    def _answer(self, asked: str) -> Answer:
        self.asked.append(asked)
        if self._refusals:
            raise LXDAPIException(Answer(400, {"type": "error", "error": self._refusals.pop(0)}))
        return Answer(200, {"type": "sync"})


def test_what_is_stopped_already_and_runs_all_the_same_is_stopped_again() -> None:
    one = HalfStarted(["The instance is already stopped", "The instance is already stopped"])
    api.stop(one, "one")
    assert one.asked == ["stop", "stop"]


def test_what_runs_when_it_is_to_be_deleted_is_stopped_first() -> None:
    one = HalfStarted(["Instance is running"])
    api.delete(one, "one")
    assert one.asked == ["delete", "stop", "delete"]


def test_another_error_of_what_runs_is_told_at_once() -> None:
    for call in (api.stop, api.delete):
        one = HalfStarted(["disk on fire", "disk on fire"])
        with pytest.raises(LXDAPIException, match="on fire"):
            call(one, "one")
        assert len(one.asked) == 1
