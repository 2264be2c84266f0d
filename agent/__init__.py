"""The agent: a daemon on each build host that makes and destroys machines for the coordinator. See README.md."""
