"""What endpoints were."""

import sqlalchemy as sa
from alembic import op

revision = "0010_history"
down_revision = "0009_audit"


def upgrade() -> None:
    op.create_table(
        "history",
        sa.Column("endpoint_id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("scale", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("slot", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("packed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("endpoint_id", "scale", "slot", name=op.f("pk_history")),
    )
