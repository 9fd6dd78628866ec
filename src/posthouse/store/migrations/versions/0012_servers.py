"""Several servers on one database."""

import sqlalchemy as sa
from alembic import op

revision = "0012_servers"
down_revision = "0011_users"


def upgrade() -> None:
    op.create_table(
        "servers",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("url", sa.String, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_servers")),
    )
    op.create_table(
        "shared_files",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_shared_files")),
    )
    op.add_column("fleets", sa.Column("server", sa.String, nullable=False, server_default="-"))
