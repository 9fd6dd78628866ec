"""Which version each worker runs, how far each update is, and what former versions of templates were."""

import sqlalchemy as sa
from alembic import op

from posthouse.store.columns import Integer

revision = "0005_rollouts"
down_revision = "0004_periods"


def upgrade() -> None:
    op.add_column("workers", sa.Column("build", sa.String, nullable=False, server_default="-"))
    op.add_column("fleets", sa.Column("rollouts", sa.Text, nullable=False, server_default="[]"))
    op.create_table(
        "versions",
        sa.Column("build", sa.String, nullable=False),
        sa.Column("image", sa.String, nullable=False),
        sa.Column("tag", sa.String, nullable=False),
        sa.Column("env", sa.Text, nullable=False),
        sa.Column("onstart", sa.Text, nullable=False),
        sa.Column("checksum", Integer),
        sa.PrimaryKeyConstraint("build", name=op.f("pk_versions")),
    )
