"""What endpoints were."""

import sqlalchemy as sa
from alembic import op

from posthouse.store.columns import Integer

revision = "0010_history"
down_revision = "0009_audit"


def upgrade() -> None:
    op.create_table(
        "history",
        sa.Column("endpoint_id", Integer, nullable=False, autoincrement=False),
        sa.Column("scale", Integer, nullable=False, autoincrement=False),
        sa.Column("slot", Integer, nullable=False, autoincrement=False),
        sa.Column("number", Integer, nullable=False),
        sa.Column("rows", Integer, nullable=False),
        sa.Column("packed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("endpoint_id", "scale", "slot", name=op.f("pk_history")),
    )
