"""Any catalogue that could be: objects that refer to each other, for tests of plans and exports."""

from typing import Final

import msgspec
from hypothesis import strategies as st

from coordinator.declare import (
    CredentialsDeclaration,
    EndpointDeclaration,
    EnterpriseDeclaration,
    EntityDeclaration,
    FlavorDeclaration,
    ForgeInstanceDeclaration,
    OrganizationDeclaration,
    PoolDeclaration,
    ProxyDeclaration,
    RepositoryDeclaration,
    ScaleSetDeclaration,
    TemplateDeclaration,
)
from coordinator.declare_image import ImageDeclaration
from coordinator.declare_plan import KINDS, AnyDeclared, Declarations
from coordinator.domain.fleet import Balancer, ForgeKind, Placement
from hostler.images import Compression, ImageFormat
from hostler.network import NetworkPolicy

NAMES: Final = st.sampled_from(["a", "B", "c-1", "d.e", "f_g"])
TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.just("token_file"), inner, max_size=3),
    max_leaves=6,
)
ENDPOINTS: Final = st.builds(
    EndpointDeclaration,
    name=NAMES,
    registrations_per_minute=st.integers(0, 100_000),
    description=TEXTS,
    upload_base_url=st.sampled_from(["", "https://up.example"]),
)
SECRETS: Final = st.sampled_from([{"token": "planted-token"}, {"app_id": 7, "installation_id": 8}])
CREDENTIALS: Final = st.builds(
    lambda secret, **values: CredentialsDeclaration(**secret, **values),
    SECRETS,
    name=NAMES,
    endpoint=NAMES,
    description=TEXTS,
)
FLAVORS: Final = st.builds(
    FlavorDeclaration,
    name=NAMES,
    vcpus=st.integers(1, 9),
    memory_mib=st.integers(64, 999),
    disk_gib=st.integers(1, 9),
    devices=st.dictionaries(st.sampled_from(["gpu", "fpga"]), st.integers(1, 4)),
)
IMAGES: Final = st.builds(
    ImageDeclaration,
    name=NAMES,
    url=st.just("https://images.example/a.qcow2"),
    sha256=st.sampled_from(["ab" * 32, "CD" * 32]),
    arch=st.sampled_from(["amd64", "arm64"]),
    format=st.sampled_from([None, ImageFormat.RAW]),
    compression=st.sampled_from([None, Compression.XZ]),
)
_ENTITY: Final[dict[str, st.SearchStrategy[object]]] = {
    "endpoint": NAMES,
    "credentials": NAMES,
    "webhook_secret": st.just("planted-webhook-secret"),
    "weight": st.floats(0.01, 1000),
    "quota": st.none() | st.integers(0, 99),
    "priority": st.integers(-100, 100),
    "label_priorities": st.dictionaries(st.sampled_from(["x", "Y y", 'q"']), st.integers(-100, 100)),
    "balancer": st.sampled_from(Balancer),
}
OWNERS: Final = st.sampled_from(
    [
        {"repository": "a/B"},
        {"repository": "B/c-1"},
        {"organization": "a"},
        {"enterprise": "a"},
        {"forge_instance": True},
    ]
)
_MAKING: Final[dict[str, st.SearchStrategy[object]]] = {
    "name": NAMES,
    "endpoint": NAMES,
    "provider": st.just("libvirt"),
    "image": st.just("debian"),
    "flavor": NAMES,
    "labels": st.lists(st.sampled_from(["Linux", "linux", "x64", 'a "b"']), min_size=1),
    "max_runners": st.integers(5, 99),
    "enabled": st.booleans(),
    "runner_group": TEXTS,
    "bootstrap_timeout_minutes": st.integers(1, 1440),
    "extra_specs": st.dictionaries(TEXTS, VALUES, max_size=3),
    "min_idle_runners": st.integers(0, 5),
    "template": st.just("") | NAMES,
}
POOLS: Final = st.builds(
    lambda owner, **values: PoolDeclaration(**owner, **values),
    OWNERS,
    **_MAKING,
    priority=st.integers(-9, 9),
    placement=st.sampled_from(Placement),
    network_policy=st.sampled_from(NetworkPolicy),
    network_allow=st.lists(st.sampled_from(["dns", "10.0.0.0/8:443"])),
)
SCALE_SETS: Final = st.builds(
    lambda owner, **values: ScaleSetDeclaration(**owner, **values), OWNERS, **_MAKING, disable_update=st.booleans()
)
SCRIPTS: Final = st.text(st.sampled_from('#a"\\\t\n\r\x7f{}\u2028é'), min_size=1).filter(str.strip)
TEMPLATES: Final = st.builds(
    TemplateDeclaration,
    name=NAMES,
    description=TEXTS,
    os_type=st.sampled_from(["linux", "windows"]),
    forge=st.sampled_from(ForgeKind),
    data=SCRIPTS,
)
PROXIES: Final = st.builds(
    ProxyDeclaration,
    name=NAMES,
    description=TEXTS,
    http_proxy=st.just("http://proxy.example:3128"),
    no_proxy=st.sampled_from(["", "a.example,b.example"]),
    username=st.just("builder"),
    password=st.sampled_from(["", "planted-password"]),
)
_OF: Final[dict[str, st.SearchStrategy[AnyDeclared]]] = {
    "endpoint": ENDPOINTS,
    "credentials": CREDENTIALS,
    "flavor": FLAVORS,
    "image": IMAGES,
    "repository": st.builds(RepositoryDeclaration, owner=NAMES, name=NAMES, **_ENTITY),
    "organization": st.builds(OrganizationDeclaration, name=NAMES, **_ENTITY),
    "enterprise": st.builds(EnterpriseDeclaration, name=NAMES, **_ENTITY),
    "forge_instance": st.builds(ForgeInstanceDeclaration, **_ENTITY),
    "template": TEMPLATES,
    "proxy": PROXIES,
    "pool": POOLS,
    "scale_set": SCALE_SETS,
}


@st.composite
def catalogues(draw: st.DrawFn) -> Declarations:
    """As they are read from the database; what they refer to need not be there."""
    assert _OF.keys() == KINDS.keys()
    there: dict[str, dict[str, AnyDeclared]] = {}
    for name, kind in KINDS.items():
        found = draw(st.lists(_OF[name], max_size=3, unique_by=kind.identify))
        there[name] = {f"{name}-{number}": kind.normal(one) for number, one in enumerate(found)}
    return there


def without_secrets(declared: AnyDeclared) -> AnyDeclared:
    match declared:
        case CredentialsDeclaration():
            return msgspec.structs.replace(declared, token=None)
        case EntityDeclaration():
            return msgspec.structs.replace(declared, webhook_secret=None)
        case ProxyDeclaration():
            return msgspec.structs.replace(declared, password=None)
        case _:
            return declared
