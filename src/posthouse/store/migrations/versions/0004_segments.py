"""What endpoints were asked, and what became of it."""

import sqlalchemy as sa
from alembic import op

revision = "0004_segments"
down_revision = "0003_secrets"


def upgrade() -> None:
    op.create_table(
        "segments",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("endpoint_id", sa.Integer, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.Column("asked", sa.LargeBinary, nullable=False),
        sa.Column("waited", sa.LargeBinary, nullable=False),
        sa.Column("figures", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_segments_endpoint_id_id", "segments", ["endpoint_id", "id"])
