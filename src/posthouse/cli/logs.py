"""`posthouse logs`"""

from typing import Annotated

import typer

from posthouse.cli import worker
from posthouse.cli.options import ApiKey, AsJson, Url, connect
from posthouse.cli.output import print_json


def logs(
    name: Annotated[str, typer.Argument(metavar="ENDPOINT|WORKER", help="Name of an endpoint, or id of a worker.")],
    tail: worker.Tail = 200,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print the last lines that a worker logged, or each worker of an endpoint.

    A number is a worker, anything else the name of an endpoint.

    Example:
      posthouse logs llama --tail 20
    """
    with connect(url, api_key) as client:
        ids = [int(name)] if name.isdecimal() else [row.id for row in client.workers(name)]
        texts = {worker_id: client.worker_logs(worker_id, tail) for worker_id in ids}
    if as_json:
        print_json([{"worker": worker_id, "text": text} for worker_id, text in texts.items()])
        return
    for worker_id, text in texts.items():
        if not name.isdecimal():
            typer.secho(f"worker {worker_id}", bold=True)
        typer.echo(text.removesuffix("\n"))
