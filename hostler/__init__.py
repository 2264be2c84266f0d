"""What coordinator, agent and admin client share: errors, configuration files, logging. No product logic."""

from importlib.metadata import version

__version__ = version("hostler")
