"""The fleet that benchmarks declare: repositories of one forge, and their pools."""

from typing import Final

import msgspec

SECRET: Final = "a-webhook-secret-of-the-benchmarks"
TOKEN: Final = "a-token-of-the-benchmarks"
DRIVER: Final = "simulated"
IMAGE: Final = "bench"
OWNER: Final = "octo"
LABELS: Final = ("self-hosted", "linux")


class Fleet(msgspec.Struct, frozen=True):
    repositories: int = 1
    pools_each: int = 1
    forge_url: str = "http://forge.invalid"
    max_runners: int = 10_000
    credentials: int = 1  # dealt to the repositories in turn
    provider: str = DRIVER
    registrations_per_minute: int = 0  # by one of the credentials; 0: no limit

    weights: tuple[float, ...] = ()  # of the repositories in turn; all the same without
    priorities: tuple[int, ...] = ()

    def weight(self, position: int) -> float:
        """Of the repository at that position of `names`."""
        return self.weights[position] if self.weights else 1.0

    def priority(self, position: int) -> int:
        return self.priorities[position] if self.priorities else 0

    def names(self) -> list[str]:
        """OWNER/NAME of each repository."""
        return [f"{OWNER}/{name}" for name in self._names()]

    def tokens(self) -> list[str]:
        """Of the credentials."""
        return [TOKEN, *(f"{TOKEN}-{number}" for number in range(1, self.credentials))]

    def repositories_of(self, credentials: int) -> list[str]:
        return self.names()[credentials :: self.credentials]

    def _names(self) -> list[str]:
        return [f"widgets-{number:03}" for number in range(self.repositories)]

    def document(self) -> str:
        """What `hostler apply` would read. The first pool of a repository serves LABELS, the others more."""
        endpoint = f'[[endpoint]]\nname = "forge"\nbase_url = "{self.forge_url}"\napi_base_url = "{self.forge_url}"'
        parts = [
            f"{endpoint}\nregistrations_per_minute = {self.registrations_per_minute}",
            *(
                f'[[credentials]]\nname = "token-{number}"\nendpoint = "forge"\ntoken = "{token}"'
                for number, token in enumerate(self.tokens())
            ),
            '[[flavor]]\nname = "small"\nvcpus = 2\nmemory_mib = 4096\ndisk_gib = 20',
        ]
        for position, name in enumerate(self._names()):
            parts.append(
                f'[[repository]]\nendpoint = "forge"\nowner = "{OWNER}"\nname = "{name}"\n'
                f'credentials = "token-{position % self.credentials}"\nwebhook_secret = "{SECRET}"\n'
                f"weight = {self.weight(position)}\npriority = {self.priority(position)}"
            )
            parts += [self._pool(name, number) for number in range(self.pools_each)]
        return "\n".join(parts)

    def _pool(self, repository: str, number: int) -> str:
        labels = msgspec.json.encode([*LABELS, f"kind-{number}"] if number else LABELS).decode()
        return (
            f'[[pool]]\nname = "pool-{number:02}"\nendpoint = "forge"\nrepository = "{OWNER}/{repository}"\n'
            f'provider = "{self.provider}"\nimage = "{IMAGE}"\nflavor = "small"\nlabels = {labels}\n'
            f"max_runners = {self.max_runners}\npriority = {-number}"
        )
