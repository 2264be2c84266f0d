"""The coordinator's configuration file: what the process itself needs. Everything else is data in the store."""

from pathlib import Path

import msgspec

from coordinator.store.database import DatabaseUnusable, driver_url
from hostler import config
from providers.exec.settings import ExecSettings

_AGENT_DRIVERS = ("libvirt", "lxd", "simulated")


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every table: unknown keys are refused."""


class Http(_Table, frozen=True):
    bind: str = "127.0.0.1:9997"
    public_url: str = "http://127.0.0.1:9997"

    def __post_init__(self) -> None:
        config.check_key("bind", lambda: config.host_and_port(self.bind))
        config.check_key("public_url", lambda: config.web_address(self.public_url))


class Grpc(_Table, frozen=True):
    bind: str = "127.0.0.1:9998"

    def __post_init__(self) -> None:
        config.check_key("bind", lambda: config.host_and_port(self.bind))
        host, _ = config.host_and_port(self.bind)
        config.check(
            config.is_loopback(host),
            f"bind: '{self.bind}' is not on loopback; without mutual TLS gRPC is served on loopback only",
        )


class DatabaseTable(_Table, frozen=True):
    url: str

    def __post_init__(self) -> None:
        try:
            driver_url(self.url)
        except DatabaseUnusable as error:
            raise ValueError(f"url: {error}") from None


class CoordinatorConfig(_Table, frozen=True):
    data_dir: str = "/var/lib/hostler"
    log_level: str = "info"
    http: Http = Http()
    grpc: Grpc = Grpc()
    database: DatabaseTable | None = None
    provider: list[ExecSettings] = []

    def __post_init__(self) -> None:
        config.check(Path(self.data_dir).is_absolute(), f"data_dir: '{self.data_dir}' must be an absolute path")
        levels = ("debug", "info", "warning", "error")
        config.check(self.log_level in levels, f"log_level: '{self.log_level}' is none of {', '.join(levels)}")
        names = [provider.name for provider in self.provider]
        for name in names:
            config.check(names.count(name) == 1, f"provider: the name '{name}' is given twice")
            config.check(name not in _AGENT_DRIVERS, f"provider: the name '{name}' is that of a driver of agents")

    @property
    def database_url(self) -> str:
        """As configured, or SQLite in the data directory."""
        return self.database.url if self.database else f"sqlite:///{self.data_dir}/hostler.db"
