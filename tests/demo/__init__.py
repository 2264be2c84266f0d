"""The demo: a whole farm on this machine with real virtual machines, and one job's way through it, live."""
