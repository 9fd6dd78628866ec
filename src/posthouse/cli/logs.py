"""`posthouse logs`"""

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from posthouse.cli import worker
from posthouse.cli.options import ApiKey, AsJson, Url, connect
from posthouse.cli.output import log_text, print_json

if TYPE_CHECKING:
    from posthouse.client import Client
    from posthouse.wire.rows import Worker

POLL_S = 1.0
"""Between two looks at what was logged."""
MAX_TAIL = 1_000
"""Most lines that are looked at again each time."""
OVERLAP = 20
"""By how many lines it is known where the look before ended."""
GONE_SHOWN = 3
"""Of how many workers that are gone the logs are shown."""


def logs(
    name: Annotated[str, typer.Argument(metavar="ENDPOINT|WORKER", help="Name of an endpoint, or id of a worker.")],
    tail: worker.Tail = 200,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on printing what is logged, until Ctrl-C.")
    ] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print the last lines that a worker logged, or each worker of an endpoint.

    A number is a worker, anything else the name of an endpoint.

    If no worker of the endpoint was ready, this includes the last ones that were
    destroyed within a day.

    Examples:
      posthouse logs llama --tail 20
      posthouse logs 12 --follow
    """
    with connect(url, api_key) as client:
        if follow:
            _follow(client, name, tail, as_json)
        ids = [int(name)] if name.isdecimal() else [row.id for row in _workers(client, name)]
        texts = {worker_id: client.worker_logs(worker_id, tail) for worker_id in ids}
    if as_json:
        print_json([{"worker": worker_id, "text": text} for worker_id, text in texts.items()])
        return
    for worker_id, text in texts.items():
        if not name.isdecimal():
            typer.secho(f"worker {worker_id}", bold=True)
        typer.echo(log_text(text.removesuffix("\n")))


def _workers(client: "Client", endpoint: str) -> "list[Worker]":
    """The workers of an endpoint; before them the latest that are gone, where none was ever ready."""
    rows = client.workers(endpoint, True)
    there, gone = [row for row in rows if not row.gone_at], [row for row in rows if row.gone_at]
    return there if any(row.perf for row in there) else [*gone[-GONE_SHOWN:], *there]


def _follow(client: "Client", name: str, tail: int, as_json: bool) -> NoReturn:
    """Prints what is logged as it comes, each line with its worker where there are several."""
    before: dict[int, list[str]] = {}
    while True:
        for worker_id in [int(name)] if name.isdecimal() else [row.id for row in client.workers(name)]:
            lines = client.worker_logs(worker_id, tail if worker_id not in before else MAX_TAIL).splitlines()
            for line in new_lines(before.get(worker_id, []), lines):
                if as_json:
                    typer.echo(json.dumps({"worker": worker_id, "line": line}, ensure_ascii=False))
                else:
                    typer.echo(log_text(line) if name.isdecimal() else f"{worker_id}: {log_text(line)}")
            before[worker_id] = lines
        time.sleep(POLL_S)


def new_lines(before: Sequence[str], now: Sequence[str]) -> Sequence[str]:
    """The lines of `now` after those that `before` ends with; all, if nothing is left of them."""
    last = before[-OVERLAP:]
    for end in range(len(now), 0, -1) if last else ():
        begin = max(0, end - len(last))
        if list(now[begin:end]) == list(last[len(last) - (end - begin) :]):
            return now[end:]
    return now
