"""What REST clients ask of and set on declared objects and the controller: numbers, descriptions, times, addresses."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    now = int(datetime.now(UTC).timestamp() * 1_000_000)
    for name in ("endpoints", "credentials", "entities", "pools"):
        with op.batch_alter_table(name) as table:
            table.add_column(sa.Column("created_at", sa.BigInteger(), nullable=False, server_default="0"))
            table.add_column(sa.Column("changed_at", sa.BigInteger(), nullable=False, server_default="0"))
            if name in ("endpoints", "credentials"):
                table.add_column(sa.Column("description", sa.Text(), nullable=False, server_default=""))
            if name == "endpoints":
                table.add_column(sa.Column("upload_base_url", sa.Text(), nullable=False, server_default=""))
            if name == "credentials":
                table.add_column(sa.Column("number", sa.Integer(), nullable=False, server_default="0"))
        # Nobody has noted it: as of now.
        declared = sa.table(name, sa.column("created_at"), sa.column("changed_at"))
        op.execute(sa.update(declared).values(created_at=now, changed_at=now))
    with op.batch_alter_table("controller") as table:
        for name in ("metadata_url", "callback_url", "webhook_url"):
            table.add_column(sa.Column(name, sa.Text(), nullable=False, server_default=""))
    credentials = sa.table("credentials", sa.column("id"), sa.column("name"), sa.column("number"))
    connection = op.get_bind()
    rows = connection.execute(sa.select(credentials.c.id).order_by(credentials.c.name)).all()
    for number, row in enumerate(rows, 1):
        connection.execute(sa.update(credentials).where(credentials.c.id == row.id).values(number=number))
    op.create_index(op.f("ix_credentials_number"), "credentials", ["number"], unique=True)
