"""`posthouse shutdown`"""

import os
import signal
import time
from typing import Annotated

import typer

from posthouse.app.signals import TAKE_DOWN
from posthouse.cli.options import AsJson, ConfigFile, DataDir
from posthouse.cli.output import print_json
from posthouse.cli.serve import server_extra
from posthouse.errors import NotFound

LOOK_S = 0.1


def shutdown(
    workers: Annotated[
        bool, typer.Option("--workers", help="First have every worker finish what it has, and destroy it.")
    ] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Stop the server that runs on this machine, and wait for its end.

    Its workers stay and go on costing money; the next start finds them. With
    --workers they are destroyed first, however long that takes. Ctrl-C here does
    not stop that; another `posthouse shutdown` stops the server at once.

    Examples:
      posthouse shutdown
      posthouse shutdown --workers --data-dir /var/lib/posthouse
    """
    with server_extra():
        from posthouse.app.datadir import owner
        from posthouse.config import load_settings

        settings, _ = load_settings({"data_dir": data_dir}, config, os.environ)
    data = settings.data_dir.absolute()
    pid = owner(data)
    if not pid:
        first = f"; for its workers start it first: posthouse serve --data-dir {data}" if workers else ""
        raise NotFound(f"no server runs on {data}{first}")
    os.kill(pid, TAKE_DOWN if workers else signal.SIGTERM)
    if not as_json:
        typer.echo(f"process {pid} {'takes its workers down and ' if workers else ''}stops")
    while owner(data):
        time.sleep(LOOK_S)
    if as_json:
        print_json({"pid": pid, "workers_taken_down": workers})
    else:
        typer.echo("it has stopped")
