"""Migrations in pairs: before and after older servers have gone."""

import sqlalchemy as sa
from alembic import op

from posthouse.store.columns import OwnSchema

revision = "0014_pairs"
down_revision = "0013_console"


def upgrade() -> None:
    op.add_column("installation", sa.Column("oldest", sa.String, nullable=False, server_default="0014_pairs"))
    # SQLite adds no column with an expression as its default, but with a literal.
    default = OwnSchema() if op.get_bind().dialect.name == "postgresql" else sa.text("''")
    op.add_column("servers", sa.Column("schema", sa.String, nullable=False, server_default=default))
