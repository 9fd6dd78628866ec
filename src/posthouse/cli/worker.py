"""`posthouse worker ...`"""

from typing import Annotated

import typer

from posthouse.cli.input import find
from posthouse.cli.options import ApiKey, AsJson, Url, connect, endpoint_names, worker_ids
from posthouse.cli.output import log_text, print_json, print_record, print_rows
from posthouse.errors import Refused

app = typer.Typer(help="Workers: what runs a model and answers requests.", no_args_is_help=True)

COLUMNS = (
    *("id", "endpoint", "state", "goal", "busy", "perf", "outstanding", "gpu_name"),
    *("price_usd_h", "spent_usd", "age_s", "url", "build", "update", "message"),
)
LESS = (
    "build",
    "outstanding",
    "spent_usd",
    "gpu_name",
    "url",
    "perf",
    "busy",
    "price_usd_h",
    "goal",
    "age_s",
    "update",
)
"""Columns that a narrow terminal goes without, the first first: what went wrong stays in sight."""

WorkerId = Annotated[int, typer.Argument(metavar="WORKER", help="Id of the worker.", autocompletion=worker_ids)]
Tail = Annotated[int, typer.Option(min=1, max=10_000, help="Lines from the end.")]


@app.command("list")
def list_workers(
    endpoint: Annotated[
        str | None,
        typer.Argument(metavar="ENDPOINT", help="Only those of this endpoint.", autocompletion=endpoint_names),
    ] = None,
    everyone: Annotated[
        bool, typer.Option("--all", help="Also those that were destroyed within a day, with what they said last.")
    ] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List the workers of an endpoint, or all.

    Examples:
      posthouse worker list llama
      posthouse worker list --all
    """
    with connect(url, api_key) as client:
        rows = client.workers(endpoint, True) if everyone else client.workers(endpoint)
    if as_json:
        print_json(rows)
    else:
        columns = [*COLUMNS[:-1], "gone_at", COLUMNS[-1]] if everyone else COLUMNS
        print_rows(rows, columns, "no workers", LESS)


@app.command()
def show(worker_id: WorkerId, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show one worker, also one that was destroyed within a day.

    Example:
      posthouse worker show 12
    """
    with connect(url, api_key) as client:
        row = find(client.workers(None, True), "worker", worker_id)
    (print_json if as_json else print_record)(row)


@app.command()
def logs(
    worker_id: WorkerId, tail: Tail = 200, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Print the last lines that a worker logged.

    Example:
      posthouse worker logs 12 --tail 50
    """
    with connect(url, api_key) as client:
        text = client.worker_logs(worker_id, tail)
    if as_json:
        print_json([{"worker": worker_id, "text": text}])
    else:
        typer.echo(log_text(text.removesuffix("\n")))


@app.command()
def shell(worker_id: WorkerId, as_json: AsJson = False) -> None:
    """Say how to get a shell where a worker runs: Posthouse opens none.

    Example:
      posthouse worker shell 12
    """
    raise Refused(
        f"Posthouse opens no shell in worker {worker_id}, as it keeps no login of a machine: use your provider's own "
        "way in; with the provider `process` the worker's files are under workers/ in the data directory. "
        f"`posthouse logs {worker_id}` and `posthouse worker show {worker_id}` work for every provider"
    )


@app.command()
def delete(worker_id: WorkerId, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Have a worker finish what it has, and destroy it.

    Example:
      posthouse worker delete 12
    """
    with connect(url, api_key) as client:
        client.delete_worker(worker_id)
    if as_json:
        print_json({"id": worker_id})
    else:
        typer.echo(f"worker {worker_id} finishes what it has and goes")
