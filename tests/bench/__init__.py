"""Benchmarks: how fast and how small the coordinator is, measured from outside on the real program."""
