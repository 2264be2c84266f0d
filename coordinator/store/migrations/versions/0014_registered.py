"""What was registered lately is found by its time, however much else has happened since."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_REGISTERED = sa.text("step = 'runner configured'")


def upgrade() -> None:
    op.create_index(
        "ix_timeline_registered", "timeline", ["at"], sqlite_where=_REGISTERED, postgresql_where=_REGISTERED
    )
