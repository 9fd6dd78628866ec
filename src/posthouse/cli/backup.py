"""`posthouse backup`, `posthouse restore`"""

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
    from posthouse.config import Settings


def backup(
    file: Annotated[Path, typer.Argument(help="Where to write it; there must be nothing yet.")],
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Write an installation into one file: its database, and what it signs with.

    Its server may keep running. The database may be a file or on PostgreSQL;
    the backup is the same, and is restored to either. Anyone who can read it can
    forge keys.

    Example:
      posthouse backup /backups/posthouse-$(date +%F).tar
    """
    with server_extra():
        from posthouse.store.backup import save
    settings = _settings(data_dir, config)
    try:
        size = asyncio.run(save(settings.data_dir.absolute(), settings.database.url, file))
    except OSError as error:
        raise BadRequest(f"FILE: {file} cannot be written: {error}") from None
    if as_json:
        print_json({"file": str(file), "bytes": size})
    else:
        typer.echo(f"wrote {file}, {size / 1e6:.1f} MB; keep it as safe as the data directory")


def restore(
    file: Annotated[Path, typer.Argument(help="What `posthouse backup` wrote.")],
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Restore an installation from a backup, into an empty data directory.

    Where database.url names a database on PostgreSQL, which must be empty too,
    the rows go there. Then start the server: it compares what it knows with what
    is there.

    Example:
      posthouse restore /backups/posthouse-2026-11-29.tar --data-dir posthouse-data
    """
    with server_extra():
        from posthouse.app.datadir import owner
        from posthouse.config import make_data_dir
        from posthouse.store.backup import restore as restore_backup
    settings = _settings(data_dir, config)
    data = make_data_dir(settings).absolute()
    if pid := owner(data):
        raise Refused(f"process {pid} serves from {data}: stop it first, with `posthouse shutdown`")
    try:
        asyncio.run(restore_backup(file, data, settings.database.url))
    except OSError as error:
        raise BadRequest(f"FILE: {file} cannot be restored: {error}") from None
    if as_json:
        print_json({"data_dir": str(data)})
    else:
        typer.echo(f"restored to {data}: start the server")


def _settings(data_dir: Path | None, config: Path | None) -> "Settings":
    from posthouse.config import load_settings

    return load_settings({"data_dir": data_dir}, config, os.environ)[0]
