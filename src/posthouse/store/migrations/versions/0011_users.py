"""People with passwords."""

import sqlalchemy as sa
from alembic import op

from posthouse.store.columns import Integer

revision = "0011_users"
down_revision = "0010_history"


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", Integer, nullable=False),
        sa.Column("account_id", Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("password", sa.String, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("checksum", Integer),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_users_account_id")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
        sqlite_autoincrement=True,
    )
    # A database of before checksums gets all of them at once, later.
    op.execute(
        "INSERT INTO revisions (topic, revision, checksum) "
        "SELECT 'users', 0, CASE WHEN count(checksum) = 0 THEN NULL ELSE 0 END FROM revisions"
    )
