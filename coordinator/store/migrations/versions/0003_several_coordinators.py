"""Which coordinators live, which of them plans, and which one holds a host's stream."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "coordinators",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_coordinators")),
    )
    lease = op.create_table(
        "planning_lease",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("fencing", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_planning_lease")),
    )
    op.bulk_insert(lease, [{"id": 1, "holder": "", "fencing": 0, "expires_at": 0}])
    with op.batch_alter_table("hosts") as table:
        table.add_column(sa.Column("coordinator", sa.Text(), nullable=False, server_default=""))
        table.add_column(sa.Column("stream", sa.BigInteger(), nullable=False, server_default="0"))
        table.add_column(sa.Column("agent_run", sa.Text(), nullable=False, server_default=""))
