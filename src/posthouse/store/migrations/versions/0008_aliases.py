"""Aliases of models."""

import sqlalchemy as sa
from alembic import op

from posthouse.store.columns import JSON, Integer

revision = "0008_aliases"
down_revision = "0007_key_limits"


def upgrade() -> None:
    op.create_table(
        "aliases",
        sa.Column("account_id", Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("body", JSON, nullable=False),
        sa.Column("checksum", Integer),
        sa.PrimaryKeyConstraint("account_id", "name", name=op.f("pk_aliases")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_aliases_account_id")),
    )
    # A database of before checksums gets all of them at once, later.
    op.execute(
        "INSERT INTO revisions (topic, revision, checksum) "
        "SELECT 'aliases', 0, CASE WHEN count(checksum) = 0 THEN NULL ELSE 0 END FROM revisions"
    )
