"""Proxies that pools and scale sets may name, and certificates that all machines are to trust."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # SQLite takes a reference with its column only, and Alembic would add it afterwards.
    for name in ("pools", "scale_sets"):
        constraint = f"CONSTRAINT fk_{name}_proxy_id REFERENCES proxies (id)"
        op.execute(f"ALTER TABLE {name} ADD COLUMN proxy_id VARCHAR(36) {constraint}")
    with op.batch_alter_table("controller", recreate="never") as table:
        table.add_column(sa.Column("ca_bundle", sa.Text(), nullable=False, server_default=""))
