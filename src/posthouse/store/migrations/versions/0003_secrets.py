"""Secrets."""

import sqlalchemy as sa
from alembic import op

revision = "0003_secrets"
down_revision = "0002_updates"


def upgrade() -> None:
    op.create_table(
        "secrets",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("sealed", sa.Text, nullable=False),
    )
