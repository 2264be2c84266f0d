"""What the machines of a pool may reach."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("pools") as table:
        table.add_column(sa.Column("network_policy", sa.Text(), nullable=False, server_default="internet"))
        table.add_column(sa.Column("network_allow", sa.Text(), nullable=False, server_default="[]"))
