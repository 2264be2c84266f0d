"""Alembic migrations, run forward when the coordinator starts."""
