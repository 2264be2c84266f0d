"""What may be declared: every wrong value is answered with its key and what is allowed."""

import pytest

from coordinator.declare import Declaration
from hostler import config
from hostler.errors import ConfigError
from tests.samples.store import DOCUMENT, FORGE_TOKEN, WEBHOOK_SECRET


def _parse(text: str) -> Declaration:
    return config.parse(text, Declaration, "fleet.toml")


def test_a_whole_document_is_taken_and_an_empty_one_too() -> None:
    declared = _parse(DOCUMENT)
    assert [pool.max_runners for pool in declared.pool] == [3]
    assert declared.flavor[0].resources.memory_mib == 2048
    assert _parse("") == Declaration()


def test_an_endpoint_is_github_where_nothing_else_is_said() -> None:
    endpoint = _parse('[[endpoint]]\nname = "github"').endpoint[0]
    assert (endpoint.base_url, endpoint.api_base_url) == ("https://github.com", "https://api.github.com")


WRONG = [
    ('name = "forge"', 'name = ""', "endpoint[0]", "name: '' must be 1 to 100"),
    ('name = "forge"', 'name = "a b"', "endpoint[0]", "must be 1 to 100 of letters"),
    ('name = "forge"', 'name = "forge\\n"', "endpoint[0]", "must be 1 to 100 of letters"),
    ('name = "forge"', 'name = "../x"', "endpoint[0]", "must be 1 to 100 of letters"),
    (
        'name = "forge"',
        'name = "forge"\nkind = "gitlab"',
        "endpoint[0].kind",
        "Invalid enum value 'gitlab'; allowed: github",
    ),
    (
        'name = "forge"',
        'name = "forge"\nurl = "x"',
        "endpoint[0].url",
        "allowed here: name, base_url, api_base_url, kind",
    ),
    (
        "https://forge.example/api/v3",
        "ftp://forge.example",
        "endpoint[0]",
        "api_base_url: 'ftp://forge.example' is not an",
    ),
    ("https://forge.example/api/v3", "https://forge.example/api/v3/", "endpoint[0]", "must not end with a slash"),
    ("https://forge.example/api/v3", "https://", "endpoint[0]", "api_base_url: 'https://' is not an http"),
    ("https://forge.example/api/v3", "https://x:port", "endpoint[0]", "api_base_url: not an http or https address"),
    ("https://forge.example/api/v3", "https://[::1", "endpoint[0]", "api_base_url: not an http or https address"),
    ("https://forge.example/api/v3", "https://u:hush@x", "endpoint[0]", "api_base_url: must hold no user"),
    ("https://forge.example/api/v3", "https://x/?a=b", "endpoint[0]", "is not an http or https address"),
    ("https://forge.example/api/v3", "https://x/#a", "endpoint[0]", "is not an http or https address"),
    ("https://forge.example/api/v3", "https://x y", "endpoint[0]", "is not an http or https address"),
    ('"https://forge.example"', '"https://forge.example/ghes"', "endpoint[0]", "must end with the host"),
    (f'"{FORGE_TOKEN}"', '""', "credentials[0]", "token: must not be empty"),
    (f'"{FORGE_TOKEN}"', '"hush\\n"', "credentials[0]", "nor hold spaces or line breaks"),
    (f'"{FORGE_TOKEN}"', '"hush hush"', "credentials[0]", "nor hold spaces or line breaks"),
    (f'"{FORGE_TOKEN}"', '"hush\u00e9"', "credentials[0]", "token: must not be empty"),
    ('owner = "Octo"', 'owner = "Oc/to"', "repository[0]", "owner: 'Oc/to' must be"),
    (f'"{WEBHOOK_SECRET}"', '"hush"', "repository[0]", "webhook_secret: must have at least 16 characters"),
    (f'token = "{FORGE_TOKEN}"', "app_id = 7\nprivate_key = 'hush'", "credentials[0]", "installation_id: must be the"),
    (
        f'token = "{FORGE_TOKEN}"',
        "app_id = 7\ninstallation_id = 8\nprivate_key = 'hush'",
        "credentials[0]",
        "private_key: must be a PEM of an RSA key",
    ),
    (f'token = "{FORGE_TOKEN}"', "token = 'hush'\napp_id = 7", "credentials[0]", "token: an App has none"),
    ("base_url = ", 'ca_bundle = "no certificate"\nbase_url = ', "endpoint[0]", "ca_bundle: must be one or more"),
    ("base_url = ", "use_internal_tools_metadata = true\nbase_url = ", "endpoint[0]", "are of Gitea"),
    ('repository = "Octo/Widgets"', "", "pool[0]", "one of them is needed, and one alone"),
    ('"Octo/Widgets"', '"Octo/Widgets"\norganization = "Octo"', "pool[0]", "one of them is needed, and one alone"),
    ("vcpus = 2", "vcpus = 0", "flavor[0]", "vcpus: must be 1 to 1024"),
    ("vcpus = 2", "vcpus = 2.5", "flavor[0].vcpus", "Expected `int`, got `float`"),
    ("memory_mib = 2048", 'memory_mib = "2 GiB"', "flavor[0].memory_mib", "Expected `int`, got `str`"),
    ("memory_mib = 2048", "memory_mib = 32", "flavor[0]", "memory_mib: must be 64 to 16777216"),
    ("disk_gib = 10", "disk_gib = 10\ndevices = { GPU = 1 }", "flavor[0]", "devices: 'GPU' is no name of a device"),
    ("disk_gib = 10", "disk_gib = 10\ndevices = { gpu = 0 }", "flavor[0]", "of 'gpu' 1 to 64 may be asked for, not 0"),
    ("disk_gib = 10", "disk_gib = 100000", "flavor[0]", "disk_gib: must be 1 to 65536"),
    ("max_runners = 3", "max_runners = 0", "pool[0]", "max_runners: must be 1 to 10000"),
    ("max_runners = 3", "max_runner = 3", "pool[0].max_runner", "allowed here: endpoint, repository"),
    ("max_runners = 3", "priority = 9000000", "pool[0]", "priority: must be -1000000 to 1000000"),
    ("max_runners = 3", 'enabled = "yes"', "pool[0].enabled", "Expected `bool`"),
    ("max_runners = 3", 'arch = "sparc"', "pool[0].arch", "Invalid enum value 'sparc'; allowed: amd64, arm64"),
    ("max_runners = 3", 'os_type = "beos"', "pool[0].os_type", "allowed: linux, windows"),
    ("max_runners = 3", 'runner_prefix = "-x"', "pool[0]", "runner_prefix: '-x' must be 1 to 31"),
    ("max_runners = 3", 'runner_prefix = "Big"', "pool[0]", "runner_prefix: 'Big' must be 1 to 31"),
    ("max_runners = 3", 'runner_prefix = "ab\\n"', "pool[0]", "must be 1 to 31 of a-z"),
    ("max_runners = 3", "bootstrap_timeout_minutes = 0", "pool[0]", "must be 1 to 1440"),
    ("max_runners = 3", "extra_specs = 1", "pool[0].extra_specs", "Expected `object`"),
    ("max_runners = 3", 'network_policy = "closed"', "pool[0].network_policy", "allowed: strict, internet, open"),
    ("max_runners = 3", 'network_allow = ["github.com"]', "pool[0]", "network_allow: 'github.com' is a name"),
    ("max_runners = 3", 'network_allow = "dns"', "pool[0].network_allow", "Expected `array`, got `str`"),
    ('["self-hosted", "linux"]', "[]", "pool[0]", "labels: 1 to 100 are needed"),
    ('["self-hosted", "linux"]', '["linux", ""]', "pool[0]", "labels: none may be empty"),
    ('["self-hosted", "linux"]', '[" linux"]', "pool[0]", "begin or end with a space"),
    ('["self-hosted", "linux"]', '"linux"', "pool[0].labels", "Expected `array`, got `str`"),
    (
        '["self-hosted", "linux"]',
        '["linux", "ARM64"]',
        "pool[0]",
        "'ARM64' promises arm64, and the pool's arch is amd64",
    ),
    ('"linux"]', '"x64"]\narch = "arm64"', "pool[0]", "'x64' promises amd64, and the pool's arch is arm64"),
    ('"Octo/Widgets"', '"Octo"', "pool[0]", "repository: 'Octo' is not owner/name"),
    ('"Octo/Widgets"', '"Octo/Widgets/x"', "pool[0]", "is not owner/name"),
    ('provider = "libvirt"', 'provider = ""', "pool[0]", "provider: must not be empty"),
    ('image = "debian"', 'image = " "', "pool[0]", "image: must not be empty"),
    ('flavor = "small"', 'flavor = ""', "pool[0]", "flavor: must not be empty"),
    ("[[flavor]]", "[[flavour]]", "flavour", "allowed here: endpoint, credentials, repository"),
    ("[[flavor]]", "[flavor]", "flavor", "Expected `array`, got `object`"),
    ("[[flavor]]", "[[flavor", "", "not valid TOML"),
]


@pytest.mark.parametrize(("old", "new", "key", "reason"), WRONG, ids=[f"{new[:30]!r}" for _, new, _, _ in WRONG])
def test_a_wrong_value_is_named_with_its_key(old: str, new: str, key: str, reason: str) -> None:
    assert old in DOCUMENT
    with pytest.raises(ConfigError) as caught:
        _parse(DOCUMENT.replace(old, new, 1))
    said = str(caught.value)
    assert said.startswith("fleet.toml: ")
    assert not key or f"key '{key}'" in said
    assert reason in said
    assert "hush" not in said


def test_no_repr_shows_a_secret() -> None:
    assert FORGE_TOKEN not in repr(_parse(DOCUMENT))
    assert WEBHOOK_SECRET not in repr(_parse(DOCUMENT))


def _image(**more: str) -> Declaration:
    said = {"name": "debian", "url": "https://images.example/debian.qcow2", "sha256": "ab" * 32} | more
    return _parse("[[image]]\n" + "".join(f"{key} = {value!r}\n" for key, value in said.items()))


@pytest.mark.parametrize(
    ("url", "said", "means"),
    [
        ("https://x/d.qcow2", {}, ("qcow2", "none")),
        ("https://x/d.raw.xz?token=1", {}, ("raw", "xz")),
        ("http://x/d.qcow2.zst", {}, ("qcow2", "zstd")),
        ("file:///srv/images/d.img.gz", {"format": "raw"}, ("raw", "gz")),
        ("https://x/lxd.tar.xz", {}, ("lxd", "none")),  # which LXD unpacks
        ("https://x/lxd.tgz", {"format": "lxd", "compression": "none"}, ("lxd", "none")),
        ("https://x/download", {"format": "qcow2", "compression": "gz"}, ("qcow2", "gz")),
        ("https://x/d.qcow2.gz", {"compression": "none", "format": "qcow2"}, ("qcow2", "none")),
    ],
)
def test_what_an_image_is_may_be_said_by_its_files_name(url: str, said: dict[str, str], means: tuple[str, str]) -> None:
    image = _image(url=url, **said).image[0]
    assert (image.disk_format, image.packed_by) == means


def test_a_digest_may_be_written_in_capitals() -> None:
    assert _image(sha256="AB" * 32).image[0].digest == "ab" * 32


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"name": "../x"}, "name: '../x' must be"),
        ({"sha256": "ab" * 31}, "sha256: '"),
        ({"sha256": "zz" * 32}, "must be 64 hexadecimal digits"),
        ({"url": "ftp://x/d.qcow2"}, "is no http, https or file address"),
        ({"url": "https://u:hush@x/d.qcow2"}, "must hold no user"),
        ({"url": "https://x/"}, "is no http, https or file address"),
        ({"url": "https://x/d e.qcow2"}, "is no http, https or file address"),
        ({"url": "https://[::1/d.qcow2"}, "is no http, https or file address"),
        ({"url": "file://server/d.qcow2"}, "is no http, https or file address"),
        ({"url": "file:d.qcow2"}, "is no http, https or file address"),
        ({"url": "https://x/d.qcow2#a"}, "must end with the file's name"),
        ({"url": "https://x/d.img"}, "format: must be said"),
        ({"format": "vmdk"}, "allowed: qcow2, raw, lxd"),
        ({"format": "lxd", "compression": "gz"}, "compression: LXD itself unpacks its tarballs"),
        ({"compression": "bz2"}, "allowed: none, gz, xz, zstd"),
        ({"arch": "riscv64"}, "Invalid enum value 'riscv64'"),
    ],
)
def test_a_wrong_image_is_told_why(more: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _image(**more)
    assert "image[0]" in str(caught.value)
    assert reason in str(caught.value)
    assert "hush" not in str(caught.value)
