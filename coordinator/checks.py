"""What a configuration names and its own reading does not see: looked at before a start, and by `--check`."""

import os
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from coordinator.config import CoordinatorConfig
from coordinator.store import keys
from coordinator.store.database import driver_url
from coordinator.store.keys import KeyFileUnusable
from hostler.config import host_and_port
from hostler.errors import ConfigError
from hostler.folders import why_unusable


def check(settings: CoordinatorConfig, environment: Mapping[str, str]) -> None:
    """Look at all of it; nothing is made, and nobody is dialled but, for a host's name, the resolver.

    Raises:
        ConfigError: names the key, and what is wrong.
    """
    data_dir = Path(settings.data_dir)
    _folder("data_dir", data_dir)
    _database(settings.database_url, data_dir)
    _key_file(settings, environment)
    _address("http.bind", settings.http.bind)
    _address("http.runner_bind", settings.http.runner_bind)
    for name in ("bind", "agents_bind", "clients_bind"):
        if bind := getattr(settings.grpc, name):
            _address(f"grpc.{name}", bind)


def _folder(key: str, folder: Path) -> None:
    reason = why_unusable(folder)
    if reason:
        raise ConfigError(f"key '{key}': {reason}", hint="name a folder that this user may write to")


def _database(url: str, data_dir: Path) -> None:
    """A PostgreSQL shows at the start whether it can be used; several coordinators may start before it does."""
    parsed = driver_url(url)
    if parsed.get_backend_name() != "sqlite":
        return
    file = Path(str(parsed.database))
    if file.parent != data_dir and not file.parent.is_dir():
        raise ConfigError(f"key 'database.url': {file.parent} is not a directory", hint="make it, or name another")
    _folder("database.url", file.parent)
    if file.exists() and not (file.is_file() and os.access(file, os.R_OK | os.W_OK)):
        raise ConfigError(f"key 'database.url': {file} is not a file that this user may read and write")


def _key_file(settings: CoordinatorConfig, environment: Mapping[str, str]) -> None:
    data_dir = Path(settings.data_dir)
    place = keys.find(data_dir, settings.secrets.key_file, environment)
    name = "secrets.key_file" if settings.secrets.key_file else "data_dir"
    if place.path.exists():
        try:
            keys.load(place)
        except KeyFileUnusable as error:
            raise ConfigError(f"key '{name}': {error}") from None
    elif settings.secrets.key_file and not place.path.parent.is_dir():
        hint = "make the folder, and copy the key file there if there is one; a first start makes a new key"
        raise ConfigError(f"key '{name}': {place.path}: there is no {place.path.parent}", hint=hint)
    else:
        _folder(name, place.path.parent)


def _address(key: str, bind: str) -> None:
    """That this machine has the address is seen at the start: the agent's bridge may be yet to come."""
    host, port = host_and_port(bind)
    try:
        ip_address(host)
    except ValueError:
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise ConfigError(f"key '{key}': the host '{host}' is not known: {error.strerror}") from None
