"""The configuration files of the demo's parts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from providers.libvirt.settings import LibvirtSettings
from providers.lxd.settings import LxdSettings
from tests.demo.places import CLOUD_GUEST, ROOT, Guest, Places

if TYPE_CHECKING:
    from tests.demo.farm import Farm

CLOUD: Final = ROOT / "providers" / "qemu.bash"


def coordinator_toml(farm: "Farm") -> str:
    return f"""\
data_dir = "{farm.places.folder}/coordinator"

[http]
bind = "{farm.webhooks}"
public_url = "http://{farm.webhooks}"
runner_bind = "{farm.runner_api}"

[grpc]
bind = "{farm.grpc}"

[database]
url = "sqlite:///{farm.places.folder}/coordinator/hostler.db"

{provider_table(farm.places) if farm.in_cloud else ""}"""


def provider_table(places: Places) -> str:
    return f"""\
[[provider]]
name = "cloud"
kind = "exec"
executable = "{CLOUD}"
config_file = "{places.cloud_config}"
"""


def cloud_toml(farm: "Farm") -> str:
    return f"""\
directory = "{farm.places.machines}"
images = "{farm.guest.path.parent}"
flavor_small = "{farm.guest.vcpus} {farm.guest.memory_mib}"
accelerator = "{farm.accelerator}"
"""


def agent_toml(farm: "Farm") -> str:
    return f"""\
data_dir = "{farm.places.agent_data}"

[host]
name = "demo-host"

[coordinator]
address = "{farm.grpc}"

[capacity]
reserved_disk_gib = 1
low_disk_gib = 0
low_memory_mib = 0
cpu_overcommit = {farm.cpu_overcommit}

{provider_toml(farm.settings, farm.guest)}{provider_toml(farm.beside, farm.guest) if farm.beside else ""}"""


def provider_toml(settings: LibvirtSettings | LxdSettings, guest: Guest) -> str:
    if isinstance(settings, LxdSettings):
        return f"""\
[lxd]
socket = "{settings.socket}"
network = "{settings.network}"
subnet = "{settings.subnet}"
"""
    return f"""\
[libvirt]
acceleration = "{settings.acceleration}"
network = "{settings.network}"
subnet = "{settings.subnet}"
emulate = {[str(arch) for arch in settings.emulate]}

[[image]]
name = "{guest.image}"
path = "{guest.path}"
arch = "{guest.arch}"
"""


def fleet_toml(farm: "Farm", repository: str, labels: tuple[str, ...]) -> str:
    forge, guest = farm.state(), farm.guest
    owner, name = repository.split("/")
    return f"""\
[[endpoint]]
name = "forge"
base_url = "{forge["base_url"]}"
api_base_url = "{forge["api_url"]}"

[[credentials]]
name = "demo"
endpoint = "forge"
token_file = "token"

[[repository]]
endpoint = "forge"
owner = "{owner}"
name = "{name}"
credentials = "demo"
webhook_secret_file = "webhook-secret"

[[flavor]]
name = "small"
vcpus = {guest.vcpus}
memory_mib = {guest.memory_mib}
disk_gib = {guest.disk_gib}

{pool_toml(farm, repository, "small", labels, "internet", farm.network_allow)}"""


def pool_toml(
    farm: "Farm",
    repository: str,
    name: str,
    labels: Sequence[str],
    policy: str,
    allow: Sequence[str],
    guest: Guest | None = None,
) -> str:
    """`guest`: the farm's, unless another is named."""
    guest = guest or farm.guest
    return f"""\
[[pool]]
name = "{name}"
endpoint = "forge"
repository = "{repository}"
provider = "{guest.driver}"
arch = "{guest.arch}"
image = "{guest.image}"
flavor = "small"
labels = {list(labels)}
max_runners = {farm.most_runners}
{"" if guest.driver == CLOUD_GUEST.driver else network_toml(policy, allow)}"""


def network_toml(policy: str, allow: Sequence[str]) -> str:
    """What a machine may reach; a cloud has rules of its own."""
    return f"""\
network_policy = "{policy}"
network_allow = {list(allow)}
"""
