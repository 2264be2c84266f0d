"""What a run is made of: repositories, pools, hosts, jobs and how much goes wrong. All of it follows from the seed."""

import json
import random
from enum import StrEnum
from typing import Final

import msgspec

SECRET: Final = "a-webhook-secret-of-the-simulation"
BASE_URL: Final = "https://forge.example"
IMAGE: Final = "debian"
STARVES: Final = "starves"
"""A label of the job beside the greedy ones."""
CLOUD: Final = "cloud"
DRIVER: Final = "simulated"
# What a cloud makes of a name that it has already.
UNIQUE: Final = "it ends with 31"
REFUSED: Final = "it ends with 1"
TAKEN: Final = "it makes another"
FLAVORS: Final = {"small": (1, 1024, 10), "large": (2, 4096, 20), "gpu": (1, 1024, 10)}
GPUS: Final = {"gpu": 1}
"""That a flavor asks for."""
_KINDS: Final = ("chaos", "chaos", "chaos", "calm", "chaos", "storm", "chaos", "chaos", "starving", "chaos")


class Kind(StrEnum):
    CHAOS = "chaos"  # everything goes wrong, for a while
    CALM = "calm"  # nothing goes wrong: exactly one machine for each job
    STORM = "storm"  # calm, with far more jobs than places, and repositories of unequal weight
    STARVING = "starving"  # calm, with one repository of a low priority beside greedy ones


class Faults(msgspec.Struct, frozen=True):
    """How often things go wrong: chances for each occasion, and counts for the run."""

    webhook_dropped: float = 0.0  # for good
    webhook_lost: float = 0.0  # and delivered again later
    webhook_twice: float = 0.0
    webhook_seconds: float = 0.2  # the longest delay
    forge_call: float = 0.0
    create_fails: float = 0.0
    create_hangs: float = 0.0
    machine_dies: float = 0.0  # while it boots or runs
    delete_fails: float = 0.0
    image_missing: float = 0.0  # from a host at first; with any chance at all, images are the catalogue's
    image_fails: float = 0.0  # to be fetched
    cloud_call: float = 0.0
    cloud_twin: float = 0.0  # one call makes two machines
    guest_call: float = 0.0
    cancelled: float = 0.0  # jobs that people cancel
    cuts: int = 0  # of streams
    agent_crashes: int = 0
    agent_hangs: int = 0  # with the stream open
    event_again: float = 0.0  # though it was acknowledged
    orphans: int = 0  # machines that nobody knows, found by an agent that comes back
    host_crashes: int = 0
    kills: int = 0  # of the coordinator
    host_losses: int = 0  # hosts that go down and never come back
    absences: int = 0  # agents that are away for longer than the lease, while their machines work
    forgotten: int = 0  # instances that the database knows no more after a kill, as one restored from a backup
    drains: int = 0  # hosts that are emptied, most of them with a deadline, and opened later or never
    shortages: int = 0  # hosts that are short of disk for a while
    until: float = 0.0  # seconds; after it nothing goes wrong any more


class Repository(msgspec.Struct, frozen=True):
    name: str
    credentials: str
    weight: float = 1.0
    quota: int | None = None
    priority: int = 0
    balancer: str = "roundrobin"


class PoolSpec(msgspec.Struct, frozen=True):
    name: str
    repository: str
    labels: tuple[str, ...]
    provider: str = DRIVER
    flavor: str = "small"
    max_runners: int = 4
    min_idle: int = 0
    priority: int = 0
    bootstrap_minutes: int = 10
    placement: str = "spread"
    share_hosts: bool = True


class HostSpec(msgspec.Struct, frozen=True):
    name: str
    vcpus: int
    memory_mib: int
    disk_gib: int = 200
    gpus: int = 0


class JobSpec(msgspec.Struct, frozen=True):
    """A job as a recorded trace has it: seconds from the beginning, owner/name, labels, seconds that it runs."""

    time: float
    entity: str
    labels: tuple[str, ...]
    duration: float


class Scenario(msgspec.Struct, frozen=True):
    seed: int
    kind: Kind
    repositories: tuple[Repository, ...]
    pools: tuple[PoolSpec, ...]
    hosts: tuple[HostSpec, ...]
    jobs: tuple[JobSpec, ...]
    faults: Faults = Faults()
    cloud_at_once: int = 2
    cloud_names: str = UNIQUE
    appear_seconds: float = 60.0  # how long a coordinator waits for what another one may have made
    elsewhere: bool = False  # each life of the coordinator is on a machine of its own
    creates_per_host: int = 2
    starvation_minutes: int = 30
    registrations_per_minute: int = 0  # 0: no limit
    served_within: float = 0.0  # seconds that no job may be queued for longer; 0: it may

    def document(self) -> str:
        """What is applied."""
        endpoint = f'[[endpoint]]\nname = "forge"\nbase_url = "{BASE_URL}"\napi_base_url = "{BASE_URL}/api"'
        tables = [
            f"{endpoint}\nregistrations_per_minute = {self.registrations_per_minute}",
            *(
                f'[[credentials]]\nname = "{name}"\nendpoint = "forge"\ntoken = "token-of-{name}"'
                for name in sorted({one.credentials for one in self.repositories})
            ),
            *(
                f'[[flavor]]\nname = "{name}"\nvcpus = {vcpus}\nmemory_mib = {memory}\ndisk_gib = {disk}\n'
                f"devices = {{ {f'gpu = {GPUS[name]}' if name in GPUS else ''} }}"
                for name, (vcpus, memory, disk) in FLAVORS.items()
            ),
            *([_IMAGE_TABLE] if self.faults.image_missing else []),
            *map(_repository, self.repositories),
            *map(_pool, self.pools),
        ]
        return "\n".join(tables)


IMAGE_SHA256: Final = "ab" * 32
_IMAGE_TABLE: Final = (
    f'[[image]]\nname = "{IMAGE}"\nurl = "https://images.example/{IMAGE}.qcow2"\nsha256 = "{IMAGE_SHA256}"'
)


def _repository(one: Repository) -> str:
    owner, name = one.name.split("/")
    quota = "" if one.quota is None else f"quota = {one.quota}\n"
    return (
        f'[[repository]]\nendpoint = "forge"\nowner = "{owner}"\nname = "{name}"\ncredentials = "{one.credentials}"\n'
        f'webhook_secret = "{SECRET}"\nweight = {one.weight}\npriority = {one.priority}\n'
        f'balancer = "{one.balancer}"\n{quota}'
    )


def _pool(one: PoolSpec) -> str:
    return (
        f'[[pool]]\nname = "{one.name}"\nendpoint = "forge"\nrepository = "{one.repository}"\n'
        f'provider = "{one.provider}"\nimage = "{IMAGE}"\nflavor = "{one.flavor}"\n'
        f"labels = {json.dumps(list(one.labels))}\nmax_runners = {one.max_runners}\n"
        f"min_idle_runners = {one.min_idle}\npriority = {one.priority}\n"
        f'bootstrap_timeout_minutes = {one.bootstrap_minutes}\nplacement = "{one.placement}"\n'
        f"share_hosts = {json.dumps(one.share_hosts)}\n"
    )


def chances(whose: str, seed: int) -> random.Random:
    """Everybody has a source of their own, so that what one does changes nothing for the others."""
    return random.Random(f"{whose} {seed}")  # noqa: S311 (to be repeated, not to be secret)


def of_seed(seed: int) -> Scenario:
    chance = chances("scenario", seed)
    kind = Kind(_KINDS[seed % len(_KINDS)])
    if kind is Kind.STORM:
        return _storm(seed, chance)
    if kind is Kind.STARVING:
        return _starving(seed, chance)
    return _mixed(seed, kind, chance)


def _mixed(seed: int, kind: Kind, chance: random.Random) -> Scenario:
    calm = kind is Kind.CALM
    repositories = tuple(
        Repository(
            name=f"octo/repo{n}",
            credentials=chance.choice(["one", "two"]),
            weight=chance.choice([0.5, 1.0, 2.0]),
            quota=chance.choice([None, None, 2, 3]),
            priority=chance.choice([0, 0, 5]),
            balancer=chance.choice(["roundrobin", "pack"]),
        )
        for n in range(chance.randint(1, 3))
    )
    pools = tuple(pool for one in repositories for pool in _pools(one, chance, calm=calm))
    hosts = tuple(_host(n, chance) for n in range(chance.randint(1, 3)))
    hosts, pools = _with_devices(hosts, pools, chances("devices", seed), calm=calm)
    span = chance.choice([5.0, 60.0, 600.0])
    jobs = tuple(_job(pools, chance, span, stray=0.0 if calm else 0.05) for _ in range(chance.randint(2, 6)))
    return Scenario(
        seed=seed,
        kind=kind,
        repositories=repositories,
        pools=pools,
        hosts=hosts,
        jobs=tuple(sorted(jobs, key=lambda job: job.time)),
        faults=Faults() if calm else _faults(chance, chances("more faults", seed), span + 600.0),
        cloud_at_once=chance.randint(1, 3),
        creates_per_host=chance.randint(1, 3),
        registrations_per_minute=chance.choice([0, 0, 3, 6]),
        cloud_names=chances("names", seed).choice([UNIQUE, REFUSED, TAKEN]),
    )


def _pools(one: Repository, chance: random.Random, *, calm: bool) -> list[PoolSpec]:
    pools = []
    menu = [("linux",), ("linux", "big"), ("gpu",)] if not calm else [("linux",), ("gpu",)]
    for n in range(chance.randint(1, 3 if not calm else 2)):
        labels = menu[n] if calm else chance.choice(menu)
        most = chance.randint(1, 4)
        pools.append(
            PoolSpec(
                name=f"{one.name.split('/')[1]}-{n}",
                repository=one.name,
                labels=labels,
                provider=chance.choice([DRIVER, DRIVER, CLOUD]),
                flavor=chance.choice(["small", "large"]),
                max_runners=most,
                min_idle=min(most, chance.choice([0, 0, 0, 1])),
                priority=chance.choice([0, 1]),
                bootstrap_minutes=chance.choice([5, 10]),
                placement=chance.choice(["spread", "pack"]),
                share_hosts=chance.random() < 0.8,
            )
        )
    return pools


def _host(number: int, chance: random.Random) -> HostSpec:
    return HostSpec(f"host-{number}", vcpus=chance.randint(2, 6), memory_mib=chance.choice([4096, 8192, 16384]))


def _with_devices(
    hosts: tuple[HostSpec, ...], pools: tuple[PoolSpec, ...], chance: random.Random, *, calm: bool
) -> tuple[tuple[HostSpec, ...], tuple[PoolSpec, ...]]:
    """Some hosts have one or two, and machines for jobs that ask for one mostly get it; in calm, some host has one."""
    counts = [chance.choice([0, 1, 2]) for _ in hosts]
    if calm and not any(counts):
        counts[0] = 1
    asking = [one.provider == DRIVER and "gpu" in one.labels and chance.random() < 0.7 for one in pools]
    return (
        tuple(msgspec.structs.replace(one, gpus=count) for one, count in zip(hosts, counts, strict=True)),
        tuple(
            msgspec.structs.replace(one, flavor="gpu") if asks else one for one, asks in zip(pools, asking, strict=True)
        ),
    )


def _job(pools: tuple[PoolSpec, ...], chance: random.Random, span: float, *, stray: float) -> JobSpec:
    """Mostly one that a pool serves; `stray`: the share of those that none does."""
    pool = chance.choice(pools)
    labels = ("unheard-of",) if chance.random() < stray else pool.labels
    return JobSpec(round(chance.uniform(0, span), 3), pool.repository, labels, round(chance.uniform(2, 300), 3))


def faults_of(seed: int, until: float) -> Faults:
    """What goes wrong where all else is given."""
    return _faults(chances("faults", seed), chances("more faults", seed), until)


def _faults(chance: random.Random, more: random.Random, until: float) -> Faults:
    """Some kinds of faults, not all at once: what goes wrong alone is found alone.

    `more`: for kinds to come, so that what else happens in a seed does not depend on them.
    """

    def some(most: float, chance: random.Random = chance) -> float:
        return round(chance.uniform(0, most), 3) if chance.random() < 0.5 else 0.0

    def times(most: int, chance: random.Random = chance) -> int:
        return chance.randint(1, most) if chance.random() < 0.4 else 0

    faults = Faults(
        webhook_lost=some(0.4),
        webhook_twice=some(0.4),
        webhook_seconds=chance.choice([0.2, 5.0, 60.0]),
        forge_call=some(0.4),
        create_fails=some(0.4),
        create_hangs=some(0.5),
        machine_dies=some(0.3),
        delete_fails=some(0.5),
        cloud_call=some(0.4),
        guest_call=some(0.2),
        cancelled=some(0.2),
        cuts=times(4),
        agent_crashes=times(2),
        host_crashes=times(2),
        orphans=times(1),
        kills=times(3),
        host_losses=times(1),
        absences=times(1),
        forgotten=times(1),
        drains=times(2),
        shortages=times(1),
        until=until,
        webhook_dropped=chance.choice([0.0, 0.0, 0.1, 0.3]),
        image_missing=chance.choice([0.0, 0.3, 1.0]),
        image_fails=some(0.4),
        agent_hangs=times(2, more),
        event_again=some(0.2, more),
        cloud_twin=some(0.3, more),
    )
    # Only one that is killed can be restored from a backup, and not every time there is something to forget.
    return msgspec.structs.replace(faults, kills=max(faults.kills, 4 * faults.forgotten))


def _storm(seed: int, chance: random.Random) -> Scenario:
    """Alike in all but weight: who gets a place is a matter of shares alone."""
    weights = chance.choice([(1.0, 2.0), (1.0, 1.0, 2.0), (0.5, 1.0)])
    repositories = tuple(Repository(f"octo/repo{n}", "one", weight) for n, weight in enumerate(weights))
    pools = tuple(PoolSpec(f"pool-{n}", one.name, ("linux",), max_runners=50) for n, one in enumerate(repositories))
    hosts = (HostSpec("host-0", 3, 65536), HostSpec("host-1", 3, 65536))
    jobs = tuple(
        JobSpec(0.0, one.name, ("linux",), round(chance.uniform(10, 60), 3)) for one in repositories for _ in range(5)
    )
    return Scenario(seed, Kind.STORM, repositories, pools, hosts, jobs, creates_per_host=4)


def _starving(seed: int, chance: random.Random) -> Scenario:
    """One job beside many of a greedy repository, which take each place that becomes free: it has a low priority, or
    needs as much as two of them, or a host without strangers, or another pool's place in the same quota.
    """
    needs = chance.choice(["priority", "room", "no strangers", "quota"])
    greedy = Repository("octo/greedy", "one", priority=10, quota=2 if needs == "quota" else None)
    humble = greedy if needs == "quota" else Repository("octo/humble", "one", priority=0)
    pools = (
        PoolSpec("pool-0", greedy.name, ("linux",), max_runners=50),
        PoolSpec(
            "pool-1",
            humble.name,
            (STARVES,),
            flavor="large" if needs in {"room", "quota"} else "small",
            max_runners=50,
            share_hosts=needs != "no strangers",
        ),
    )
    hosts = tuple(HostSpec(f"host-{n}", 2, 65536) for n in range(chance.choice([1, 1, 2])))
    stream = tuple(
        JobSpec(
            round(n * 20.0 / len(hosts) + chance.uniform(0, 5), 3),
            greedy.name,
            ("linux",),
            round(chance.uniform(60, 90), 3),
        )
        for n in range(12 * len(hosts))
    )
    jobs = (*stream, JobSpec(45.0, humble.name, (STARVES,), 10.0))
    return Scenario(
        seed,
        Kind.STARVING,
        (greedy,) if needs == "quota" else (greedy, humble),
        pools,
        hosts,
        tuple(sorted(jobs, key=lambda job: job.time)),
        starvation_minutes=1,
    )
