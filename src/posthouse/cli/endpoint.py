"""`posthouse endpoint ...`"""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from posthouse.cli.described import SCALING, with_options
from posthouse.cli.input import check_search, find
from posthouse.cli.options import ApiKey, AsJson, Force, Url, connect, endpoint_names, given, template_names
from posthouse.cli.output import plain, print_json, print_record, print_rows, waiting
from posthouse.cli.serve import server_extra
from posthouse.cli.status import update_lines
from posthouse.cli.template import KEYS
from posthouse.domain.endpoint import PARAMETERS, EndpointState
from posthouse.errors import BadRequest, PosthouseError

if TYPE_CHECKING:
    from posthouse.client import Client

app = typer.Typer(help="Endpoints: named groups of workers that serve one model.", no_args_is_help=True)

POLL_S = 0.5
"""Between two looks at what is left of a deleted endpoint."""

COLUMNS = ("id", "endpoint_name", "endpoint_state", "min_load", "target_util", "cold_workers", "max_workers")

Name = Annotated[
    str,
    typer.Argument(metavar="ENDPOINT", help="Name or id of the endpoint.", autocompletion=endpoint_names),
]


@app.command("list")
def list_endpoints(url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List every endpoint.

    Example:
      posthouse endpoint list --json
    """
    with connect(url, api_key) as client:
        rows = [plain(row, "api_key") for row in client.endpoints()]
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, COLUMNS, "no endpoints")


@app.command()
def show(name: Name, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show one endpoint, with the key that can only route to it, and how far updates of its workers are.

    Example:
      posthouse endpoint show llama
    """
    with connect(url, api_key) as client:
        row, updates = client.endpoint(name), client.explain(name).updates
    if as_json:
        print_json({**plain(row), "updates": [plain(update) for update in updates]})
    else:
        print_record({**plain(row), "updates": "; ".join(update_lines(updates, time.time())) or "none"})


@app.command()
@with_options("scaling", SCALING)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new endpoint.")],
    template: Annotated[
        str | None,
        typer.Option(help="Give it a workergroup of this template: hash, id or name.", autocompletion=template_names),
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Where that rents.", show_default="the server's default")] = None,
    search: Annotated[str | None, typer.Option(help="Offer filter of that.", show_default="the template's own")] = None,
    force: Force = False,
    *,
    scaling: dict[str, Any],
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Create an endpoint. Parameters that are not given have the server's defaults.

    Examples:
      posthouse endpoint create llama --min-load 0 --cold-workers 1 --max-workers 4
      posthouse endpoint create llama --template llama-cpu --max-workers 4
    """
    if not force:
        _check_cold(scaling, PARAMETERS["max_workers"].default)
        check_search(search, "search")
    more = {key: value for key, value in (("provider", provider), ("search_params", search)) if value is not None}
    if more and template is None:
        raise BadRequest("--provider, --search: are of a workergroup, which --template gives")
    with connect(url, api_key) as client:
        template_id = template and find(client.templates(), "template", template, KEYS).id
        endpoint_id = client.create_endpoint(name, **scaling)
        made = {"id": endpoint_id}
        if template_id is not None:
            try:
                made["workergroup_id"] = client.create_workergroup(
                    endpoint_id=endpoint_id, template_id=template_id, **more
                )
            except PosthouseError:  # nothing is left of what could not be made whole
                client.delete_endpoint(endpoint_id)
                raise
    if as_json:
        print_json(made)
    elif template_id is not None:
        typer.echo(f"endpoint {endpoint_id} created, with workergroup {made['workergroup_id']}")
    else:
        typer.echo(f"endpoint {endpoint_id} created; give it workers with `posthouse workergroup create`")


@app.command()
@with_options("scaling", SCALING)
def update(
    name: Name,
    new_name: Annotated[str | None, typer.Option("--name", help="New name.")] = None,
    state: Annotated[
        EndpointState | None,
        typer.Option(help="suspended: its workers stay as they are; stopped: all of them become cold."),
    ] = None,
    force: Force = False,
    *,
    scaling: dict[str, Any],
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Change an endpoint. What is not given stays.

    Examples:
      posthouse endpoint update llama --max-workers 8
      posthouse endpoint update llama --state stopped
    """
    changes = given(endpoint_name=new_name, endpoint_state=state, **scaling)
    with connect(url, api_key) as client:
        before = client.endpoint(name)
        if not force:
            _check_cold(scaling, before.max_workers)
        endpoint_id = before.id
        client.update_endpoint(endpoint_id, **changes)
    if as_json:
        print_json({"id": endpoint_id})
    else:
        typer.echo(f"endpoint {endpoint_id} updated")


def _check_cold(said: Mapping[str, Any], most: Any) -> None:
    """Raises: BadRequest where what is said asks for more cold workers than there may be, `most` if it is not said."""
    most = said.get("max_workers", most)
    if said.get("cold_workers", 0) > most:
        raise BadRequest(
            f"cold_workers: must be at most max_workers, which is {most}, not {said['cold_workers']}; --force sends it"
        )


@app.command()
def delete(
    name: Name,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until its last worker is gone.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0, help="Longest wait, in seconds.")] = 600.0,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Delete an endpoint, its workergroups and its workers. They finish what they have first.

    Example:
      posthouse endpoint delete llama --wait
    """
    with connect(url, api_key) as client:
        row = client.endpoint(name)
        client.delete_endpoint(row.id)
        if wait:
            workers = {w.id for w in client.workers() if w.endpoint == row.endpoint_name}
            _wait_for_end(client, workers, timeout_s)
    if as_json:
        print_json({"id": row.id})
    else:
        typer.echo(f"endpoint {row.id} deleted")


def _wait_for_end(client: "Client", workers: set[int], timeout_s: float) -> None:
    """Returns when none of the workers exists any more. Raises: TimedOut."""
    from posthouse.client import TimedOut

    end = time.monotonic() + timeout_s
    with waiting("waiting for its workers") as tell:
        while left := workers & {w.id for w in client.workers()}:
            tell(f"waiting for {len(left)} worker{'s' * (len(left) > 1)} to finish and go")
            if time.monotonic() > end:
                raise TimedOut(f"deleted; workers that are still there after {timeout_s:g} s: {len(left)}")
            time.sleep(POLL_S)


@app.command()
def logs(
    name: Name,
    level: Annotated[
        Literal["info0", "info1", "trace", "debug"],
        typer.Option(
            help="info0: failures and limits that were reached; info1: also what became of each worker, and decisions; "
            "trace: also decisions that changed nothing, and what workers reported that is new; debug: everything."
        ),
    ] = "info1",
    tail: Annotated[int, typer.Option(min=1, max=10_000, help="Lines from the end.")] = 200,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print what happened to an endpoint: its workers' changes and why, decisions, failures.

    What its workers themselves print is in `posthouse logs`.

    Example:
      posthouse endpoint logs llama --level debug --tail 50
    """
    with connect(url, api_key) as client:
        text = getattr(client.endpoint_logs(client.endpoint(name).id, tail), level)
    if as_json:
        print_json({"level": level, "lines": text.splitlines()})
    elif text:
        typer.echo(text)


@app.command()
def traffic(
    name: Name,
    last_s: Annotated[
        float | None,
        typer.Option("--last", min=1, help="Only the last so many seconds.", show_default="all that is kept"),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print the requests that an endpoint was asked, as CSV: seconds from the first segment kept, work.

    `posthouse simulate --trace` reads it, and `--from-journal` needs no file.

    Example:
      posthouse endpoint traffic llama > requests.csv
    """
    with server_extra():
        from posthouse.sim.recorded import recording
    with connect(url, api_key) as client:
        found = recording(asdict(client.traffic(name, last_s)))
    rows = zip(found.at_s.tolist(), found.work.tolist(), strict=True)
    if as_json:
        print_json([{"t_s": round(at_s, 3), "cost": work} for at_s, work in rows])
        return
    typer.echo("t_s,cost")
    for at_s, work in rows:
        typer.echo(f"{at_s:.3f},{work:.7g}")


@app.command("rotate-key")
def rotate_key(name: Name, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Give an endpoint a new key. The one before is refused from now on.

    Example:
      posthouse endpoint rotate-key llama
    """
    with connect(url, api_key) as client:
        key = client.rotate_endpoint_key(name)
    if as_json:
        print_json({"api_key": key})
    else:
        typer.echo(key)
