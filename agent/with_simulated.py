"""The agent's configuration with the simulated provider: for trying out coordinators without a hypervisor."""

from agent.config import AgentConfig
from providers.contract import HostProvider
from providers.simulated import SimulatedProvider, SimulatedSettings


class SimulatedConfig(AgentConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    simulated: SimulatedSettings

    def make_provider(self) -> HostProvider:
        return SimulatedProvider(self.simulated, directory=self.instances_path)


CONFIG = SimulatedConfig
