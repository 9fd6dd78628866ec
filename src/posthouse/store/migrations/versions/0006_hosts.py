"""Where each worker's machine stands, and when it failed last: what is known of hosts outlives a restart."""

import sqlalchemy as sa
from alembic import op

revision = "0006_hosts"
down_revision = "0005_rollouts"


def upgrade() -> None:
    op.add_column("workers", sa.Column("zone", sa.String, nullable=False, server_default="-"))
    op.add_column("workers", sa.Column("failed_at", sa.Double, nullable=False, server_default="0"))
