"""What the planner's policy needs: shares, quotas, priorities, idle runners, tries."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("entities") as table:
        table.add_column(sa.Column("weight", sa.Float(), nullable=False, server_default="1"))
        table.add_column(sa.Column("quota", sa.Integer(), nullable=True))
        table.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(sa.Column("label_priorities", sa.Text(), nullable=False, server_default="{}"))
        table.add_column(sa.Column("balancer", sa.Text(), nullable=False, server_default="roundrobin"))
    with op.batch_alter_table("endpoints") as table:
        table.add_column(sa.Column("registrations_per_minute", sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("pools") as table:
        table.add_column(sa.Column("min_idle", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(sa.Column("generation", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(sa.Column("placement", sa.Text(), nullable=False, server_default="spread"))
        table.add_column(sa.Column("share_hosts", sa.Boolean(), nullable=False, server_default=sa.true()))
    with op.batch_alter_table("jobs") as table:
        table.add_column(sa.Column("tries", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(sa.Column("retry_at", sa.BigInteger(), nullable=True))
        table.add_column(sa.Column("fault", sa.Text(), nullable=False, server_default=""))
        table.drop_index("ix_jobs_status")
        table.create_index("ix_jobs_status_entity_id", ["status", "entity_id"])
    with op.batch_alter_table("instances") as table:
        table.add_column(sa.Column("pool_generation", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(sa.Column("for_job", sa.Text(), nullable=False, server_default=""))
