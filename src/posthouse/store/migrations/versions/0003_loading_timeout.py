"""How long a worker of a template may load."""

import sqlalchemy as sa
from alembic import op

revision = "0003_loading_timeout"
down_revision = "0002_checksums"


def upgrade() -> None:
    op.add_column("templates", sa.Column("loading_timeout_s", sa.Double, nullable=False, server_default="0"))
