"""Set-up of all simulations."""

from hostler import logs

logs.configure("warning")
