"""What a guest of GitHub's gets in one call, where a test stands for the coordinator."""

from coordinator.runner_api.bundle import Bundle
from coordinator.templates.builtin import unit_file
from tests.samples.domain import instance


def bundle() -> Bundle:
    names = ("runner", "credentials", "credentials_rsaparams")
    return Bundle(
        runner_name=instance().name,
        runner_labels=["linux", "self-hosted"],
        forge_type="github",
        runner_registration_url="https://forge.example/octo/widgets",
        service_name="actions.runner.octo.widgets",
        unit=unit_file("github", "runner"),
        files={f".{name}": f"content of {name}".encode() for name in names},
    )
