"""The engine: wakes on commits, plans, and hands over to executors. Holds no decisions."""
