"""Which workers an update was asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0002_updates"
down_revision = "0001_first"


def upgrade() -> None:
    op.add_column("workers", sa.Column("outdated_at", sa.Double, nullable=False, server_default="0"))
