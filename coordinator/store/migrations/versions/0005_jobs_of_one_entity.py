"""A job is one for its entity: another one that signs the same id no longer takes its place."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_constraint("uq_jobs_endpoint_id_forge_job_id_attempt", type_="unique")
        batch_op.create_unique_constraint(
            "uq_jobs_endpoint_id_forge_job_id_attempt_entity_id",
            ["endpoint_id", "forge_job_id", "attempt", "entity_id"],
        )
