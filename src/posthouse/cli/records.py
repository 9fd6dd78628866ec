"""`posthouse records`"""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer


def records(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="That `posthouse gateway --records FILE` writes.")],
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    key: Annotated[str | None, typer.Option(metavar="ID", help="Only of the key with this id.")] = None,
    since: Annotated[float | None, typer.Option(metavar="S", help="Only of the last so many seconds.", min=0)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines in place of CSV.")] = False,
) -> None:
    """Print what became of a gateway's requests, the oldest first.

    Examples:
      posthouse records requests.jsonl > requests.csv
      posthouse records requests.jsonl --model chat --since 3600 --json
    """
    import time

    from posthouse.gateway.records import read, write_csv

    after = time.time() - since if since is not None else 0.0
    found = (
        record
        for record in read(file)
        if record.at >= after and model in (None, record.model) and key in (None, record.key)
    )
    if not as_json:
        write_csv(found, sys.stdout)
        return
    for record in found:
        typer.echo(msgspec.json.encode(record).decode())
