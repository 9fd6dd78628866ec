"""What each key may have, and what it has used."""

import sqlalchemy as sa
from alembic import op

from posthouse.store.columns import Integer

revision = "0007_key_limits"
down_revision = "0006_hosts"


def upgrade() -> None:
    for name in ("requests_per_minute", "work_per_minute", "at_once", "used_requests", "refused_requests"):
        op.add_column("keys", sa.Column(name, Integer, nullable=False, server_default="0"))
    op.add_column("keys", sa.Column("used_work", sa.Double, nullable=False, server_default="0"))
