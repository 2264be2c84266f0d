"""Why a pool rests, and jobs that machines came to nothing for, found without looking at all that wait."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("pools") as table:
        table.add_column(sa.Column("fault", sa.Text(), nullable=False, server_default=""))
    tried = sa.text("tries > 0")
    op.create_index("ix_jobs_tried", "jobs", ["entity_id"], sqlite_where=tried, postgresql_where=tried)
