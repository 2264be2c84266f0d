"""Endpoints of Gitea, certificates of their CAs, and Apps besides tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("endpoints", recreate="never") as table:  # others refer to it
        table.add_column(sa.Column("ca_bundle", sa.LargeBinary(), nullable=True))
        table.add_column(sa.Column("tools_metadata_url", sa.Text(), nullable=False, server_default=""))
        table.add_column(
            sa.Column("use_internal_tools_metadata", sa.Boolean(), nullable=False, server_default=sa.false())
        )
    with op.batch_alter_table("credentials") as table:
        table.add_column(sa.Column("auth", sa.Text(), nullable=False, server_default="pat"))
        table.add_column(sa.Column("app_id", sa.BigInteger(), nullable=False, server_default="0"))
        table.add_column(sa.Column("installation_id", sa.BigInteger(), nullable=False, server_default="0"))
