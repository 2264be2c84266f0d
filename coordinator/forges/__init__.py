"""Speaking to forges. Every call goes through one client; every failure is one of the errors in `contract.py`."""
