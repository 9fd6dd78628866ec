"""Migrations, by Alembic: of databases that an earlier version made.

Servers of two versions may share a database during an upgrade. So there are two kinds. One of `before`, which most
are, only adds: the version before goes on beside it. One with `after = True` takes away what only older versions
use: it waits until none of their servers lives, and from then on none can begin.
"""

from collections.abc import Sequence
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, inspect, select, text, update

from posthouse.errors import Refused
from posthouse.store.schema import Which, installation, servers

DEAD_S = 10
"""How long after the end of its lease a server is taken for dead."""


def pending(found: str) -> Sequence[str]:
    """This version's migrations after a schema; none where that is a newer one's."""
    names = [one.revision for one in _known(_config())]
    return names[names.index(found) + 1 :] if found in names else []


def migrate(connection: Connection, found: str | None, which: Which = "possible") -> None:
    """Brings a schema up to this version's. `found`: its version; None: there is none yet.

    Raises: Refused if it is one for newer servers alone, or older servers are in the way.
    """
    config = _config()
    config.attributes["connection"] = connection
    known = _known(config)
    names = [one.revision for one in known]
    if found is not None and found not in names:
        _check_schema_fits(connection, found, names)
        return
    now = _possible(connection, known[names.index(found) + 1 :] if found is not None else known, which)
    if now:
        command.upgrade(config, now[-1].revision)
        for one in now:
            if _is_after(one):
                _close_to_older(connection, one.revision)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _known(config: Config) -> Sequence[Script]:
    """Every migration, the oldest first."""
    return list(reversed(list(ScriptDirectory.from_config(config).walk_revisions())))


def _is_after(migration: Script) -> bool:
    return bool(getattr(migration.module, "after", False))


def _check_schema_fits(connection: Connection, found: str, names: Sequence[str]) -> None:
    """Raises: Refused if a newer schema is not fit for this version."""
    fit = any(column["name"] == "oldest" for column in inspect(connection).get_columns(installation.name))
    if not fit or connection.scalar(select(installation.c.oldest)) not in names:
        raise Refused(
            f"the database has the schema {found}, and this Posthouse knows none newer than {names[-1]}: upgrade "
            "Posthouse, or open another database"
        )


def _possible(connection: Connection, pending: Sequence[Script], which: Which) -> Sequence[Script]:
    """The migrations to make now. Raises: Refused where that is less than this version, or the caller, needs."""
    needed = max((number for number, one in enumerate(pending, 1) if not _is_after(one)), default=0)
    now = 0 if which == "before" else len(pending)
    for number, one in enumerate(pending[: max(now, needed)]):
        if _is_after(one) and (older := _older(connection, one.revision)):
            if number < needed or which == "all":
                to = "to the version before this one" if number < needed else "it"
                raise Refused(
                    f"the migration {one.revision} waits until no older server lives, and one does at "
                    f"{', '.join(older)}: upgrade {to} first, or stop it"
                )
            return pending[:number]
    return pending[: max(now, needed)]


def _older(connection: Connection, revision: str) -> Sequence[str]:
    """Where servers are reached that do not know a migration, and live."""
    if connection.dialect.name != "postgresql" or not inspect(connection).has_table(servers.name):
        return []
    if not any(column["name"] == "schema" for column in inspect(connection).get_columns(servers.name)):
        return list(connection.scalars(select(servers.c.url)))
    now = "extract(epoch FROM clock_timestamp())"
    connection.execute(text(f"DELETE FROM servers WHERE until < {now} - {DEAD_S}"))  # noqa: S608
    living = connection.execute(select(servers.c.url, servers.c.schema).order_by(servers.c.url))
    return [url for url, schema in living if schema < revision]


def _close_to_older(connection: Connection, revision: str) -> None:
    """From now on no server lives that does not know the migration: neither a new one, nor one that was asleep."""
    connection.execute(update(installation).values(oldest=revision))
    if connection.dialect.name == "postgresql":
        connection.execute(text("ALTER TABLE servers DROP CONSTRAINT IF EXISTS ck_servers_schema"))
        known = f"""schema COLLATE "C" >= '{revision}'"""
        connection.execute(text(f"ALTER TABLE servers ADD CONSTRAINT ck_servers_schema CHECK ({known})"))
