"""The agent's configuration with the simulated provider: for trying out coordinators without a hypervisor."""

from typing import ClassVar

from agent.config import AgentConfig
from providers.contract import HostProvider
from providers.simulated import SimulatedProvider, SimulatedSettings


class SimulatedConfig(AgentConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    driver_names: ClassVar[tuple[str, ...]] = ("simulated",)

    simulated: SimulatedSettings

    def make_provider(self, others: tuple[AgentConfig, ...] = ()) -> HostProvider:
        # Alone it stands for a real one; beside others it must not have its records among a real one's instances.
        return SimulatedProvider(
            self.simulated, directory=self.data_path / "simulated" if others else self.instances_path
        )


CONFIG = SimulatedConfig
