"""Endpoints that were deleted, for what they cost; sessions of the console."""

import sqlalchemy as sa
from alembic import op

from posthouse.store.columns import Integer

revision = "0013_console"
down_revision = "0012_servers"


def upgrade() -> None:
    op.create_table(
        "deleted_endpoints",
        sa.Column("id", Integer, nullable=False, autoincrement=False),
        sa.Column("account_id", Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("deleted_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deleted_endpoints")),
    )
    op.create_table(
        "sessions",
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("key_id", sa.String, nullable=False),
        sa.Column("account_id", Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("began_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_sessions")),
    )
    # A database of before checksums gets all of them at once, later.
    op.execute(
        "INSERT INTO revisions (topic, revision, checksum) "
        "SELECT 'sessions', 0, CASE WHEN count(checksum) = 0 THEN NULL ELSE 0 END FROM revisions"
    )
