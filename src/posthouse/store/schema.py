"""The tables, as the newest migration leaves them. A test compares the two."""

from typing import Literal, TypeAlias

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from posthouse.store.columns import JSON, Integer, OwnSchema

VERSION = "0015_manifests"
"""The newest migration."""
Which: TypeAlias = Literal["before", "all", "possible"]
"""Of a database's pending migrations: those before a rollout, all, or all that can be made now."""

# Names for constraints, so that a later migration can name what it changes on every database.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

# What Alembic keeps to know where a database stands.
schema_version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))

installation = Table(
    "installation",
    metadata,
    Column("name", String, primary_key=True),
    Column("epoch", Integer, nullable=False),  # of the server that started last
    Column("last_worker_id", Integer, nullable=False),  # the highest that any server has taken
    # The newest migration of those `after`: a server that does not know it may not use this database.
    Column("oldest", String, nullable=False, server_default="0014_pairs"),
    Column("checksum", Integer),  # of its name
)

# One row for each kind of thing that servers keep in memory; its revision rises with every change.
revisions = Table(
    "revisions",
    metadata,
    Column("topic", String, primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("checksum", Integer),  # the sum of those of the rows
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("created_at", Double, nullable=False),
    Column("checksum", Integer),
    sqlite_autoincrement=True,
)

# `sqlite_autoincrement`: without it SQLite gives the highest id again after its row was deleted.
endpoints = Table(
    "endpoints",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account_id", Integer, ForeignKey(accounts.c.id), nullable=False),
    Column("name", String, nullable=False),
    Column("scaling", JSON, nullable=False),
    Column("state", String, nullable=False),
    Column("key_version", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("checksum", Integer),
    UniqueConstraint("account_id", "name"),
    sqlite_autoincrement=True,
)

templates = Table(
    "templates",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account_id", Integer, ForeignKey(accounts.c.id), nullable=False),
    Column("hash_id", String, nullable=False),
    Column("name", String, nullable=False),
    Column("image", String, nullable=False),
    Column("tag", String, nullable=False),
    Column("env", Text, nullable=False),
    Column("onstart", Text, nullable=False),
    Column("disk_gb", Double, nullable=False),
    Column("extra_filters", JSON, nullable=False),
    Column("desc", Text, nullable=False),
    Column("readme", Text, nullable=False),
    Column("private", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("checksum", Integer),
    Column("loading_timeout_s", Double, nullable=False, server_default="0"),
    UniqueConstraint("account_id", "hash_id"),
    sqlite_autoincrement=True,
)

# What templates said before they were changed, for workers that run it still or again.
versions = Table(
    "versions",
    metadata,
    Column("build", String, primary_key=True),
    Column("image", String, nullable=False),
    Column("tag", String, nullable=False),
    Column("env", Text, nullable=False),
    Column("onstart", Text, nullable=False),
    Column("checksum", Integer),
)

workergroups = Table(
    "workergroups",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("endpoint_id", Integer, ForeignKey(endpoints.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("template_id", Integer, ForeignKey(templates.c.id), nullable=False, index=True),
    Column("search_params", Text, nullable=False),
    Column("launch_args", Text, nullable=False),
    Column("gpu_ram", Double, nullable=False),
    Column("provider", String, nullable=False),
    Column("signature_scheme", String, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("checksum", Integer),
    sqlite_autoincrement=True,
)

keys = Table(
    "keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("account_id", Integer, ForeignKey(accounts.c.id), nullable=False),
    Column("name", String, nullable=False),
    Column("scope", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("last_used_at", Double, nullable=False),
    Column("revoked_at", Double, nullable=False),
    Column("requests_per_minute", Integer, nullable=False, server_default="0"),
    Column("work_per_minute", Integer, nullable=False, server_default="0"),
    Column("at_once", Integer, nullable=False, server_default="0"),
    Column("used_requests", Integer, nullable=False, server_default="0"),
    Column("used_work", Double, nullable=False, server_default="0"),
    Column("refused_requests", Integer, nullable=False, server_default="0"),
    Column("checksum", Integer),
)

users = Table(
    "users",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account_id", Integer, ForeignKey(accounts.c.id), nullable=False),
    Column("name", String, nullable=False, unique=True),
    Column("scope", String, nullable=False),
    Column("password", String, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("checksum", Integer),
    sqlite_autoincrement=True,
)

# Who is signed in to the console, by a digest of what the browser shows.
sessions = Table(
    "sessions",
    metadata,
    Column("digest", String, primary_key=True),
    Column("scope", String, nullable=False),
    Column("key_id", String, nullable=False),
    Column("account_id", Integer, nullable=False),
    Column("name", String, nullable=False),
    Column("began_at", Double, nullable=False),
)

secrets = Table(
    "secrets",
    metadata,
    Column("account_id", Integer, ForeignKey(accounts.c.id), primary_key=True),
    Column("name", String, primary_key=True),
    Column("sealed", Text, nullable=False),
    Column("checksum", Integer),
)

aliases = Table(
    "aliases",
    metadata,
    Column("account_id", Integer, ForeignKey(accounts.c.id), primary_key=True),
    Column("name", String, primary_key=True),
    Column("body", JSON, nullable=False),
    Column("checksum", Integer),
)

# What endpoints should be, as it was applied last.
manifests = Table(
    "manifests",
    metadata,
    Column(
        "endpoint_id", Integer, ForeignKey(endpoints.c.id, ondelete="CASCADE"), primary_key=True, autoincrement=False
    ),
    Column("body", JSON, nullable=False),
    Column("applied_at", Double, nullable=False),
)

# Fleets, workers and the journal outlive their endpoint, so their `endpoint_id` is no foreign key.
fleets = Table(
    "fleets",
    metadata,
    Column("endpoint_id", Integer, primary_key=True, autoincrement=False),
    Column("account_id", Integer, nullable=False),  # who pays, after the endpoint was deleted too
    Column("epoch", Integer, nullable=False),  # of the lease under which it was opened last
    Column("version", Integer, nullable=False),
    Column("spent_usd", Double, nullable=False),  # by destroyed workers, whose own rows are trimmed
    Column("checksum", Integer),  # the sum of those of its living workers
    Column("rollouts", Text, nullable=False, server_default="[]"),  # of its workergroups, as JSON
    Column("server", String, nullable=False, server_default="-"),  # which has it, where several share the database
)

# Servers that share this database: each is there for as long as it lives.
servers = Table(
    "servers",
    metadata,
    Column("name", String, primary_key=True),
    Column("url", String, nullable=False),  # where the others reach it
    Column("until", Double, nullable=False),  # when its lease ends, by the database's clock
    Column("schema", String, nullable=False, server_default=OwnSchema()),  # the newest migration that it knows
)

# What servers that share this database sign and seal with, in base64: files of their data directories.
shared_files = Table(
    "shared_files",
    metadata,
    Column("name", String, primary_key=True),
    Column("body", Text, nullable=False),
)

# When the present day and month of each endpoint began; -1 is the installation.
periods = Table(
    "periods",
    metadata,
    Column("endpoint_id", Integer, primary_key=True, autoincrement=False),
    Column("kind", String, primary_key=True),
    Column("began_at", Double, nullable=False),
    Column("before_usd", Double, nullable=False),
    Column("checksum", Integer),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("endpoint_id", Integer, nullable=False),
    Column("group_id", Integer, nullable=False),
    Column("label", String, nullable=False, index=True),
    Column("provider", String, nullable=False),
    Column("offer_id", String, nullable=False),
    Column("machine", String, nullable=False),
    Column("gpu_name", String, nullable=False),
    Column("num_gpus", Integer, nullable=False),
    Column("ready_usd_h", Double, nullable=False),
    Column("loading_usd_h", Double, nullable=False),
    Column("stopped_usd_h", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("state", String, nullable=False),
    Column("goal", String, nullable=False),
    Column("since", Double, nullable=False),
    Column("progressed_at", Double, nullable=False),
    Column("instance_id", String, nullable=False),
    Column("addresses", JSON, nullable=False),
    Column("url", String, nullable=False),
    Column("version", String, nullable=False),
    Column("scheme", String, nullable=False),
    Column("perf", Double, nullable=False),
    Column("loaded_at", Double, nullable=False),
    Column("load_s", Double, nullable=False),
    Column("spent_usd", Double, nullable=False),
    Column("message", Text, nullable=False),
    Column("outdated_at", Double, nullable=False),
    Column("capabilities", JSON, nullable=False),
    Column("checksum", Integer),
    Column("build", String, nullable=False, server_default="-"),  # of one whose version nobody knows
    Column("zone", String, nullable=False, server_default="-"),
    Column("failed_at", Double, nullable=False, server_default="0"),
    Index("ix_workers_endpoint_id_state", "endpoint_id", "state"),
)

journal = Table(
    "journal",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("endpoint_id", Integer, nullable=False),
    Column("at", Double, nullable=False),
    Column("body", JSON, nullable=False),
    Index("ix_journal_endpoint_id_id", "endpoint_id", "id"),
    sqlite_autoincrement=True,
)

segments = Table(
    "segments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("endpoint_id", Integer, nullable=False),
    Column("size", Integer, nullable=False),  # in bytes, by which they are bounded
    Column("since", Double, nullable=False),
    Column("until", Double, nullable=False),
    Column("requests", Integer, nullable=False),
    Column("asked", LargeBinary, nullable=False),
    Column("waited", LargeBinary, nullable=False),
    Column("figures", JSON, nullable=False),
    Index("ix_segments_endpoint_id_id", "endpoint_id", "id"),
    sqlite_autoincrement=True,
)

# What people did. `audit_head` has one row, in which the chain of their hashes begins and ends.
audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("account_id", Integer, nullable=False),
    Column("via", String, nullable=False),
    Column("key_id", String, nullable=False),
    Column("key_name", String, nullable=False),
    Column("call", String, nullable=False),
    Column("request_id", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("name", String, nullable=False),
    Column("endpoint_id", Integer, nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("hash", String, nullable=False),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("first_id", Integer, nullable=False),
    Column("base", String, nullable=False),  # the hash of the row before the first
    Column("last_id", Integer, nullable=False),
    Column("hash", String, nullable=False),
)

# What endpoints were, in chunks of rows. Later chunks take the slots of older ones, which bounds the table.
history = Table(
    "history",
    metadata,
    Column("endpoint_id", Integer, primary_key=True, autoincrement=False),
    Column("scale", Integer, primary_key=True, autoincrement=False),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("packed", LargeBinary, nullable=False),
)

# Endpoints that were deleted, of whose costs some are kept among the history.
deleted_endpoints = Table(
    "deleted_endpoints",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("account_id", Integer, nullable=False),
    Column("name", String, nullable=False),
    Column("deleted_at", Double, nullable=False),
)
