"""What keeps machines apart from each other, their host and private networks: nftables, the same for every provider."""

from providers.isolation.coordinator import Coordinator, Nowhere
from providers.isolation.firewall import Firewall
from providers.isolation.guests import guest_of, port_name, runner_api
from providers.isolation.rules import Guest, Network
from providers.isolation.watch import Watch

__all__ = ["Coordinator", "Firewall", "Guest", "Network", "Nowhere", "Watch", "guest_of", "port_name", "runner_api"]
