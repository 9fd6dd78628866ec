"""`posthouse migrate`, `posthouse migrate-store`"""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posthouse.cli.options import AsJson, ConfigFile, DataDir
from posthouse.cli.output import print_json
from posthouse.cli.serve import server_extra
from posthouse.errors import BadRequest, Refused

if TYPE_CHECKING:
    from posthouse.store.schema import Which

MOVED = ".moved"
"""What the name of a file ends with from which an installation was moved."""


def migrate(
    before: Annotated[
        bool, typer.Option("--before", help="Only those beside which the previous version keeps working.")
    ] = False,
    after: Annotated[
        bool, typer.Option("--after", help="All, or fail where a server of an older version lives.")
    ] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Bring the database up to this version, without a server.

    A server does this by itself when it starts: first the migrations beside which
    the previous version keeps working, and the rest once none of its servers lives.
    --before does the first part ahead of a rollout; --after makes sure that nothing
    is left at its end.

    Example:
      posthouse migrate --before
    """
    with server_extra():
        from posthouse.app.datadir import database_url, owner
        from posthouse.config import load_settings
        from posthouse.store.move import migrate_database
    if before and after:
        raise BadRequest("--before and --after: give one of them")
    settings, _ = load_settings({"data_dir": data_dir}, config, os.environ)
    data = settings.data_dir.absolute()
    url = database_url(settings, data)
    if not settings.database.url:
        if not (data / "posthouse.db").is_file():
            raise BadRequest(f"there is no database in {data}: the first start of a server makes it")
        if pid := owner(data):
            raise Refused(f"process {pid} serves from {data}: restart it with the new version, which does this itself")
    which: Which = "before" if before else "all" if after else "possible"
    schema, left = asyncio.run(migrate_database(url, which))
    if as_json:
        print_json({"schema": schema, "left": list(left)})
    else:
        typer.echo(f"the database has the schema {schema}")
        if left:
            typer.echo(f"waits until no older server lives: {', '.join(left)}")


def migrate_store(
    sqlite: Annotated[Path, typer.Argument(help="The file posthouse.db of the installation's data directory.")],
    postgres: Annotated[str, typer.Argument(help="An empty database: postgresql://USER:PASSWORD@HOST/DATABASE.")],
    as_json: AsJson = False,
) -> None:
    """Move an installation from its file to PostgreSQL, while its server is stopped.

    Every row is copied and compared, all or nothing. The file is renamed then,
    and nothing else of the data directory moves: start the server with the same
    one and with database.url. Workers go on meanwhile.

    Example:
      posthouse migrate-store posthouse-data/posthouse.db postgresql://ph:secret@db/posthouse
      POSTHOUSE_DATABASE__URL=postgresql://ph:secret@db/posthouse posthouse serve
    """
    with server_extra():
        from posthouse.app.datadir import owner
        from posthouse.store.move import move_store
    if not sqlite.is_file():
        raise BadRequest(f"SQLITE: {sqlite} is no file; name the posthouse.db of a data directory")
    if pid := owner(sqlite.parent):
        raise Refused(f"process {pid} serves from {sqlite.parent}: stop it first, with `posthouse shutdown`")
    moved = asyncio.run(move_store(sqlite, postgres))
    kept = sqlite.rename(sqlite.with_name(sqlite.name + MOVED))
    if as_json:
        print_json({"rows": dict(moved), "kept": str(kept)})
    else:
        rows = ", ".join(f"{count} {name}" for name, count in moved.items() if count)
        typer.echo(f"moved and compared: {rows}\nthe file is kept as {kept}; start the server with database.url")
