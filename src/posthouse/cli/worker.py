"""`posthouse worker ...`"""

from typing import Annotated

import typer

from posthouse.cli.input import find
from posthouse.cli.options import ApiKey, AsJson, Url, connect
from posthouse.cli.output import print_json, print_record, print_rows

app = typer.Typer(help="Workers: what runs a model and answers requests.", no_args_is_help=True)

COLUMNS = (
    *("id", "endpoint", "state", "goal", "busy", "perf", "outstanding", "gpu_name"),
    *("price_usd_h", "spent_usd", "age_s", "url", "message"),
)

WorkerId = Annotated[int, typer.Argument(metavar="WORKER", help="Id of the worker.")]
Tail = Annotated[int, typer.Option(min=1, max=10_000, help="Lines from the end.")]


@app.command("list")
def list_workers(
    endpoint: Annotated[str | None, typer.Argument(metavar="[ENDPOINT]", help="Only those of this endpoint.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List the workers of an endpoint, or all.

    Example:
      posthouse worker list llama
    """
    with connect(url, api_key) as client:
        rows = client.workers(endpoint)
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, COLUMNS, "no workers")


@app.command()
def show(worker_id: WorkerId, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show one worker.

    Example:
      posthouse worker show 12
    """
    with connect(url, api_key) as client:
        row = find(client.workers(), "worker", worker_id)
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
        typer.echo(text.removesuffix("\n"))


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
