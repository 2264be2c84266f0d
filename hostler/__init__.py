"""What coordinator, agent and admin client share: errors, configuration files, logging. No product logic."""

__version__ = "0.1.0"
"""The packages' too. Not asked of their metadata: to read that costs a process 2 MiB."""
