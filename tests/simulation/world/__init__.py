"""The real coordinator in a simulated world: its time, forge, hosts, cloud and accidents all follow from a seed."""
