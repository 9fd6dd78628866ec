"""`posthouse migrate-store`"""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from posthouse.cli.options import AsJson
from posthouse.cli.output import print_json
from posthouse.cli.serve import server_extra
from posthouse.errors import BadRequest, Refused

MOVED = ".moved"
"""What the name of a file ends with from which an installation was moved."""


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
