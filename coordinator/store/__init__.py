"""The store: all SQL is here and nowhere else. One code path for SQLite and PostgreSQL."""
