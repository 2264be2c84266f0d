"""What has changed of late, and what is old, found without reading every instance there ever was."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_instances_changed_at", "instances", ["changed_at"])
