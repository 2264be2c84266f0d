"""A GitHub that behaves: REST, webhooks and jobs as GitHub has them, for tests and the demo. See README.md."""

from tests.forge_simulator.errors import SimulatorError
from tests.forge_simulator.faults import RestFault, WebhookFaults
from tests.forge_simulator.records import Delivery, Hook, Job, Repository, Runner, Token
from tests.forge_simulator.simulator import ForgeSimulator

__all__ = [
    "Delivery",
    "ForgeSimulator",
    "Hook",
    "Job",
    "Repository",
    "RestFault",
    "Runner",
    "SimulatorError",
    "Token",
    "WebhookFaults",
]
