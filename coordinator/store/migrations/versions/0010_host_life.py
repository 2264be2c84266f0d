"""Since when a host is away, whether people let it take machines, and what it is short of."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("hosts") as table:
        table.add_column(sa.Column("disconnected_at", sa.BigInteger(), nullable=True))
        table.add_column(sa.Column("admission", sa.Text(), nullable=False, server_default="open"))
        table.add_column(sa.Column("admission_reason", sa.Text(), nullable=False, server_default=""))
        table.add_column(sa.Column("drain_deadline", sa.BigInteger(), nullable=True))
        table.add_column(sa.Column("pressure_code", sa.Text(), nullable=False, server_default=""))
        table.add_column(sa.Column("pressure", sa.Text(), nullable=False, server_default=""))
