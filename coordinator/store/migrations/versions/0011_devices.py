"""How many devices of each kind hosts have, flavors ask for and instances were promised."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("hosts", "flavors", "instances"):
        with op.batch_alter_table(name) as table:
            table.add_column(sa.Column("devices", sa.Text(), nullable=False, server_default="{}"))
