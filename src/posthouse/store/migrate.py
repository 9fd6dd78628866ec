"""Migrations, by Alembic: of databases that an earlier version made."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from posthouse.errors import Refused


def migrate(connection: Connection, found: str | None) -> None:
    """Brings a schema up to this version's. `found`: its version; None: there is none yet. Raises: Refused if it is
    newer already."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    if found is not None and found not in {known.revision for known in script.walk_revisions()}:
        raise Refused(
            f"the database has the schema {found}, and this Posthouse knows none newer than "
            f"{script.get_current_head()}: upgrade Posthouse, or open another database"
        )
    command.upgrade(config, "head")
