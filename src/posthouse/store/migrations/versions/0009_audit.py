"""What people did, in a chain of hashes."""

import sqlalchemy as sa
from alembic import op

from posthouse.store.columns import Integer

revision = "0009_audit"
down_revision = "0008_aliases"


def upgrade() -> None:
    texts = ("via", "key_id", "key_name", "call", "request_id", "action", "subject", "name")
    op.create_table(
        "audit",
        sa.Column("id", Integer, nullable=False, autoincrement=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("account_id", Integer, nullable=False),
        *(sa.Column(name, sa.String, nullable=False) for name in texts),
        sa.Column("endpoint_id", Integer, nullable=False),
        sa.Column("before", sa.Text, nullable=False),
        sa.Column("after", sa.Text, nullable=False),
        sa.Column("hash", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_table(
        "audit_head",
        sa.Column("id", Integer, nullable=False, autoincrement=False),
        sa.Column("first_id", Integer, nullable=False),
        sa.Column("base", sa.String, nullable=False),
        sa.Column("last_id", Integer, nullable=False),
        sa.Column("hash", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.execute("INSERT INTO audit_head (id, first_id, base, last_id, hash) VALUES (1, 1, '', 0, '')")
