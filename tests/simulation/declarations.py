"""What the farm declares: the simulator's repository and its pools."""

import json
from collections.abc import Iterable
from typing import Final

from tests.forge_simulator.simulator import ForgeSimulator

REPOSITORY: Final = "octo/widgets"
SECRET: Final = "a-webhook-secret-of-the-tests"
LABELS: Final = ("self-hosted", "linux")


def document(forge: ForgeSimulator, token: str, *, pools: Iterable[str]) -> str:
    """What `hostler apply` would declare for the simulator's repository."""
    owner, name = REPOSITORY.split("/")
    return "\n".join(
        [
            f'[[endpoint]]\nname = "forge"\nbase_url = "{forge.base_url}"\napi_base_url = "{forge.api_url}"',
            f'[[credentials]]\nname = "token"\nendpoint = "forge"\ntoken = "{token}"',
            f'[[repository]]\nendpoint = "forge"\nowner = "{owner}"\nname = "{name}"\ncredentials = "token"',
            f'webhook_secret = "{SECRET}"',
            '[[flavor]]\nname = "small"\nvcpus = 1\nmemory_mib = 64\ndisk_gib = 1',
            *pools,
        ]
    )


def pool(
    name: str = "small",
    *,
    provider: str = "simulated",
    labels: Iterable[str] = LABELS,
    max_runners: int = 100,
    flavor: str = "small",
    more: str = "",
) -> str:
    return (
        f'[[pool]]\nname = "{name}"\nendpoint = "forge"\nrepository = "{REPOSITORY}"\nprovider = "{provider}"\n'
        f'image = "simulated"\nflavor = "{flavor}"\nlabels = {json.dumps(list(labels))}\n'
        f"max_runners = {max_runners}\n{more}"
    )
