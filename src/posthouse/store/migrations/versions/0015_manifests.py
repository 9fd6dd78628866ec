"""Manifests of endpoints, as they were applied last."""

import sqlalchemy as sa
from alembic import op

from posthouse.store.columns import JSON, Integer

revision = "0015_manifests"
down_revision = "0014_pairs"


def upgrade() -> None:
    op.create_table(
        "manifests",
        sa.Column("endpoint_id", Integer, nullable=False, autoincrement=False),
        sa.Column("body", JSON, nullable=False),
        sa.Column("applied_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("endpoint_id", name=op.f("pk_manifests")),
        sa.ForeignKeyConstraint(
            ["endpoint_id"], ["endpoints.id"], name=op.f("fk_manifests_endpoint_id"), ondelete="CASCADE"
        ),
    )
