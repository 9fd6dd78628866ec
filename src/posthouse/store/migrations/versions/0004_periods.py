"""What had been spent when the present day and month began: caps on money survive a restart."""

import sqlalchemy as sa
from alembic import op

from posthouse.store.columns import Integer

revision = "0004_periods"
down_revision = "0003_loading_timeout"


def upgrade() -> None:
    op.create_table(
        "periods",
        sa.Column("endpoint_id", Integer, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("began_at", sa.Double, nullable=False),
        sa.Column("before_usd", sa.Double, nullable=False),
        sa.Column("checksum", Integer),
        sa.PrimaryKeyConstraint("endpoint_id", "kind", name=op.f("pk_periods")),
    )
