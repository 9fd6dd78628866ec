"""The tables of the first release."""

import sqlalchemy as sa
from alembic import op

from posthouse.store.columns import JSON, Integer

revision = "0001_tables"
down_revision = None

TOPICS = ("accounts", "endpoints", "workergroups", "templates", "keys", "secrets")


def upgrade() -> None:
    op.create_table(
        "installation",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("epoch", Integer, nullable=False),
        sa.Column("last_worker_id", Integer, nullable=False),
    )
    revisions = op.create_table(
        "revisions",
        sa.Column("topic", sa.String, primary_key=True),
        sa.Column("revision", Integer, nullable=False),
    )
    op.bulk_insert(revisions, [{"topic": topic, "revision": 0} for topic in TOPICS])
    _catalogue()
    _keys()
    _fleets()
    _segments()


def _catalogue() -> None:
    accounts = op.create_table(
        "accounts",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("created_at", sa.Double, nullable=False),
        sqlite_autoincrement=True,
    )
    op.bulk_insert(accounts, [{"name": "default", "created_at": 0.0}])
    op.create_table(
        "endpoints",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("account_id", Integer, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("scaling", JSON, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("key_version", Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("revision", Integer, nullable=False),
        sa.UniqueConstraint("account_id", "name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "templates",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("account_id", Integer, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("hash_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("image", sa.String, nullable=False),
        sa.Column("tag", sa.String, nullable=False),
        sa.Column("env", sa.Text, nullable=False),
        sa.Column("onstart", sa.Text, nullable=False),
        sa.Column("disk_gb", sa.Double, nullable=False),
        sa.Column("extra_filters", JSON, nullable=False),
        sa.Column("desc", sa.Text, nullable=False),
        sa.Column("readme", sa.Text, nullable=False),
        sa.Column("private", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("revision", Integer, nullable=False),
        sa.UniqueConstraint("account_id", "hash_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "workergroups",
        sa.Column("id", Integer, primary_key=True),
        sa.Column(
            "endpoint_id", Integer, sa.ForeignKey("endpoints.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("template_id", Integer, sa.ForeignKey("templates.id"), nullable=False, index=True),
        sa.Column("search_params", sa.Text, nullable=False),
        sa.Column("launch_args", sa.Text, nullable=False),
        sa.Column("gpu_ram", sa.Double, nullable=False),
        sa.Column("provider", sa.String, nullable=False),
        sa.Column("signature_scheme", sa.String, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("revision", Integer, nullable=False),
        sqlite_autoincrement=True,
    )


def _keys() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("account_id", Integer, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("last_used_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double, nullable=False),
    )
    op.create_table(
        "secrets",
        sa.Column("account_id", Integer, sa.ForeignKey("accounts.id"), primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("sealed", sa.Text, nullable=False),
    )


def _fleets() -> None:
    op.create_table(
        "fleets",
        sa.Column("endpoint_id", Integer, primary_key=True, autoincrement=False),
        sa.Column("account_id", Integer, nullable=False),
        sa.Column("epoch", Integer, nullable=False),
        sa.Column("version", Integer, nullable=False),
        sa.Column("spent_usd", sa.Double, nullable=False),
    )
    op.create_table(
        "workers",
        sa.Column("id", Integer, primary_key=True, autoincrement=False),
        sa.Column("endpoint_id", Integer, nullable=False),
        sa.Column("group_id", Integer, nullable=False),
        sa.Column("label", sa.String, nullable=False, index=True),
        sa.Column("provider", sa.String, nullable=False),
        sa.Column("offer_id", sa.String, nullable=False),
        sa.Column("machine", sa.String, nullable=False),
        sa.Column("gpu_name", sa.String, nullable=False),
        sa.Column("num_gpus", Integer, nullable=False),
        sa.Column("ready_usd_h", sa.Double, nullable=False),
        sa.Column("loading_usd_h", sa.Double, nullable=False),
        sa.Column("stopped_usd_h", sa.Double, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("goal", sa.String, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("progressed_at", sa.Double, nullable=False),
        sa.Column("instance_id", sa.String, nullable=False),
        sa.Column("addresses", JSON, nullable=False),
        sa.Column("url", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("scheme", sa.String, nullable=False),
        sa.Column("perf", sa.Double, nullable=False),
        sa.Column("loaded_at", sa.Double, nullable=False),
        sa.Column("load_s", sa.Double, nullable=False),
        sa.Column("spent_usd", sa.Double, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("outdated_at", sa.Double, nullable=False),
        sa.Column("capabilities", JSON, nullable=False),
    )
    op.create_index("ix_workers_endpoint_id_state", "workers", ["endpoint_id", "state"])
    op.create_table(
        "journal",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("endpoint_id", Integer, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("body", JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_journal_endpoint_id_id", "journal", ["endpoint_id", "id"])


def _segments() -> None:
    op.create_table(
        "segments",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("endpoint_id", Integer, nullable=False),
        sa.Column("size", Integer, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("requests", Integer, nullable=False),
        sa.Column("asked", sa.LargeBinary, nullable=False),
        sa.Column("waited", sa.LargeBinary, nullable=False),
        sa.Column("figures", JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_segments_endpoint_id_id", "segments", ["endpoint_id", "id"])
