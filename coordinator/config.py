"""The coordinator's configuration file: what the process itself needs. Everything else is data in the store."""

import functools
from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import msgspec

from coordinator.domain.world import Policy
from coordinator.pki.names import address
from coordinator.store.database import DatabaseUnusable, driver_url
from hostler import config
from providers.exec.settings import ExecSettings

_AGENT_DRIVERS = ("libvirt", "lxd", "lxd-container", "simulated")


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every table: unknown keys are refused."""


class Http(_Table, frozen=True):
    """Two listeners, so that a firewall can tell the forges' side from the machines' side."""

    bind: str = "127.0.0.1:9997"  # webhooks
    public_url: str = "http://127.0.0.1:9997"  # where forges find it
    runner_bind: str = "127.0.0.1:9996"  # the runner API, and nothing else
    runner_url: str = ""  # what machines are told to call; empty: runner_bind as it stands

    def __post_init__(self) -> None:
        config.check_key("bind", lambda: config.host_and_port(self.bind))
        config.check_key("public_url", lambda: config.web_address(self.public_url))
        config.check_key("runner_bind", lambda: config.host_and_port(self.runner_bind))
        same = self.runner_bind == self.bind and config.host_and_port(self.bind)[1] != 0
        config.check(not same, f"runner_bind: '{self.runner_bind}' is that of bind; the two are listeners of their own")
        if self.runner_url:
            config.check_key("runner_url", lambda: config.web_address(self.runner_url))
        else:
            host, port = config.host_and_port(self.runner_bind)
            config.check(
                host not in ("0.0.0.0", "::") and port != 0,  # noqa: S104 (compared, not bound)
                f"runner_url: is needed, since '{self.runner_bind}' of runner_bind is no address to call",
            )

    @property
    def machines_call(self) -> str:
        return self.runner_url or f"http://{self.runner_bind}"


class Grpc(_Table, frozen=True):
    bind: str = "127.0.0.1:9998"  # not encrypted, for this machine: the admin client, and an agent beside it
    agents_bind: str = ""  # mutual TLS, for enrolled agents
    clients_bind: str = ""  # TLS, for hosts that enrol and for the admin client with a token
    public_names: tuple[str, ...] = ()  # by which this machine is called from outside; hosts are told the first
    certificate_hours: float = 168.0  # how long certificates of hosts and coordinators are valid

    def __post_init__(self) -> None:
        config.check_key("bind", lambda: config.host_and_port(self.bind))
        host, _ = config.host_and_port(self.bind)
        config.check(
            config.is_loopback(host),
            f"bind: '{self.bind}' is not on loopback; plain gRPC is served there alone: for other machines there are "
            "agents_bind and clients_bind, which have TLS",
        )
        self._check_listeners()
        for name in self.public_names:
            config.check_key("public_names", functools.partial(_name_or_address, name))
        config.check(0.001 <= self.certificate_hours <= 168, "certificate_hours: must be 0.001 to 168")

    def _check_listeners(self) -> None:
        for key in ("agents_bind", "clients_bind"):
            if value := getattr(self, key):
                config.check_key(key, functools.partial(config.host_and_port, value))
        config.check(
            bool(self.agents_bind) == bool(self.clients_bind),
            "agents_bind, clients_bind: hosts enrol at the one and work at the other: set both or neither",
        )
        same = bool(self.agents_bind) and self.agents_bind == self.clients_bind
        config.check(not same, f"clients_bind: '{self.clients_bind}' is that of agents_bind; each needs its own port")
        config.check(
            not self.agents_bind or bool(self.public_names),
            "public_names: name at least one host name or address by which agents call this coordinator",
        )

    @property
    def certificate_life(self) -> timedelta:
        return timedelta(hours=self.certificate_hours)

    @property
    def agents_address(self) -> str:
        """What agents are told to call; empty: there is no listener for them."""
        return self._public(self.agents_bind)

    @property
    def clients_address(self) -> str:
        return self._public(self.clients_bind)

    def _public(self, bind: str) -> str:
        return address(self.public_names, config.host_and_port(bind)[1]) if bind else ""


def _name_or_address(value: str) -> None:
    with suppress(ValueError):
        ip_address(value)
        return
    config.host_name(value)


class DatabaseTable(_Table, frozen=True):
    url: str

    def __post_init__(self) -> None:
        try:
            driver_url(self.url)
        except DatabaseUnusable as error:
            raise ValueError(f"url: {error}") from None


class Planner(_Table, frozen=True):
    starvation_minutes: int = 30  # who waits longer goes before everybody, and what it needs is kept for it
    idle_grace_seconds: int = 120  # how long an idle runner that nothing is queued for is kept
    creates_per_host: int = 16  # machines that one host makes at once
    host_grace_seconds: int = 30  # a host that is away for longer covers no job with what it makes
    host_lease_seconds: int = 300  # one that is away for longer is lost, with all but its busy runners
    patrol_seconds: int = 120  # how often what forges and clouds list is compared with what should be there
    poll_seconds: int = 300  # how often each repository is asked for jobs whose webhooks have not come

    def __post_init__(self) -> None:
        config.check(1 <= self.starvation_minutes <= 10_080, "starvation_minutes: must be 1 to 10080")
        config.check(0 <= self.idle_grace_seconds <= 86_400, "idle_grace_seconds: must be 0 to 86400")
        config.check(1 <= self.creates_per_host <= 1000, "creates_per_host: must be 1 to 1000")
        config.check(0 <= self.host_grace_seconds <= 3600, "host_grace_seconds: must be 0 to 3600")
        config.check(
            max(60, self.host_grace_seconds) <= self.host_lease_seconds <= 86_400,
            "host_lease_seconds: must be 60 to 86400, and not below host_grace_seconds",
        )
        config.check(1 <= self.patrol_seconds <= 3600, "patrol_seconds: must be 1 to 3600")
        config.check(1 <= self.poll_seconds <= 86_400, "poll_seconds: must be 1 to 86400")

    @property
    def policy(self) -> Policy:
        return Policy(
            starvation_bound=timedelta(minutes=self.starvation_minutes),
            idle_grace=timedelta(seconds=self.idle_grace_seconds),
            creates_per_host=self.creates_per_host,
            host_grace=timedelta(seconds=self.host_grace_seconds),
            host_lease=timedelta(seconds=self.host_lease_seconds),
        )


class Retention(_Table, frozen=True):
    days: int = 30  # how long finished jobs and deleted instances are kept, with their timelines and consoles

    def __post_init__(self) -> None:
        config.check(1 <= self.days <= 3650, "days: must be 1 to 3650")


class Secrets(_Table, frozen=True):
    key_file: str = ""  # empty: systemd's credential `hostler-key`, or secrets.key in data_dir

    def __post_init__(self) -> None:
        absolute = not self.key_file or Path(self.key_file).is_absolute()
        config.check(absolute, f"key_file: '{self.key_file}' must be an absolute path")


class Metrics(_Table, frozen=True):
    """Of /metrics at http.bind."""

    open: bool = False  # for anybody; else a metrics token is asked for
    one_by_one: bool = True  # a series for each machine, as GARM has them


class CoordinatorConfig(_Table, frozen=True):
    data_dir: str = "/var/lib/hostler"
    log_level: str = "info"
    http: Http = Http()
    grpc: Grpc = Grpc()
    database: DatabaseTable | None = None
    planner: Planner = Planner()
    retention: Retention = Retention()
    secrets: Secrets = Secrets()
    metrics: Metrics = Metrics()
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
