"""Checksums of rows and of tables. The store fills them in where they are missing."""

import sqlalchemy as sa
from alembic import op

from posthouse.store.columns import Integer

revision = "0002_checksums"
down_revision = "0001_tables"

TABLES = (
    *("installation", "revisions", "accounts", "endpoints", "templates", "workergroups", "keys", "secrets"),
    *("fleets", "workers"),
)


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("checksum", Integer))
