"""Scale sets, install templates, which pools may name, and proxies; and how long jobs wait for machines to be made."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "templates",
        *_known(),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("description", "os_type", "forge")),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        *_made(),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_templates")),
        sa.UniqueConstraint("number", name=op.f("uq_templates_number")),
        sa.UniqueConstraint("name", name=op.f("uq_templates_name")),
    )
    op.create_table(
        "scale_sets",
        *_known(),
        sa.Column("entity_id", sa.String(36), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("provider", "image", "flavor", "arch", "os_type")),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("max_runners", sa.Integer(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("runner_prefix", sa.Text(), nullable=False),
        sa.Column("runner_group", sa.Text(), nullable=False),
        sa.Column("bootstrap_timeout_seconds", sa.Integer(), nullable=False),
        sa.Column("extra_specs", sa.Text(), nullable=False),
        sa.Column("min_idle", sa.Integer(), nullable=False),
        sa.Column("disable_update", sa.Boolean(), nullable=False),
        sa.Column("template_id", sa.String(36), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False, server_default="0"),
        *_made(),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scale_sets")),
        sa.ForeignKeyConstraint(["entity_id"], ["entities.id"], name=op.f("fk_scale_sets_entity_id")),
        sa.ForeignKeyConstraint(["template_id"], ["templates.id"], name=op.f("fk_scale_sets_template_id")),
        sa.UniqueConstraint("number", name=op.f("uq_scale_sets_number")),
        sa.UniqueConstraint("entity_id", "name", name=op.f("uq_scale_sets_entity_id_name")),
    )
    texts = ("description", "http_proxy", "https_proxy", "no_proxy", "username")
    op.create_table(
        "proxies",
        *_known(),
        *(sa.Column(name, sa.Text(), nullable=False) for name in texts),
        sa.Column("password", sa.LargeBinary(), nullable=True),
        *_made(),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_proxies")),
        sa.UniqueConstraint("number", name=op.f("uq_proxies_number")),
        sa.UniqueConstraint("name", name=op.f("uq_proxies_name")),
    )
    with op.batch_alter_table("controller", recreate="never") as table:
        table.add_column(sa.Column("minimum_job_age_backoff", sa.Integer(), nullable=False, server_default="0"))
    # SQLite takes a reference with its column only, and Alembic would add it afterwards.
    op.execute(
        "ALTER TABLE pools ADD COLUMN template_id VARCHAR(36) CONSTRAINT fk_pools_template_id REFERENCES templates (id)"
    )


def _known() -> list[sa.Column[object]]:
    return [
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
    ]


def _made() -> list[sa.Column[object]]:
    return [
        sa.Column(name, sa.BigInteger(), nullable=False, server_default="0") for name in ("created_at", "changed_at")
    ]
