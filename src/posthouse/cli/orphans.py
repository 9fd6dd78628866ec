"""`posthouse orphans ...`"""

from typing import Annotated

import typer

from posthouse.cli.options import ApiKey, AsJson, Url, connect
from posthouse.cli.output import print_json, print_rows
from posthouse.errors import BadRequest

app = typer.Typer(
    help="Orphans: instances of this installation that no worker owns, as after a restored backup.",
    no_args_is_help=True,
)

COLUMNS = ("instance_id", "provider", "label", "state", "reports", "known", "listed_s")

InstanceId = Annotated[str, typer.Argument(metavar="INSTANCE", help="Its id or label, as `orphans list` shows it.")]
Provider = Annotated[str, typer.Option(help="Its provider, where several have one of that id.", show_default="any")]


@app.command("list")
def list_orphans(url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List instances that carry this installation's label and that no worker owns.

    One that `reports` still serves. One that is `known` was destroyed by this
    server and disappears by itself; the database knows nothing of the others.

    Example:
      posthouse orphans list
    """
    with connect(url, api_key) as client:
        rows = client.orphans()
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, COLUMNS, "no orphans")


@app.command()
def destroy(
    instances: Annotated[
        list[str] | None, typer.Argument(metavar="INSTANCE...", help="Ids or labels, as `orphans list` shows them.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All orphans that are listed.")] = False,
    provider: Provider = "",
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Destroy orphans. Those that report finish their requests first.

    Examples:
      posthouse orphans destroy posthouse-1f0c7a9e-12
      posthouse orphans destroy --all
    """
    if bool(instances) is everything:
        raise BadRequest("name instances, or give --all")
    with connect(url, api_key) as client:
        named = [(name, provider) for name in instances or ()]
        if everything:
            named = [(row.instance_id, row.provider) for row in client.orphans() if provider in ("", row.provider)]
        said = [client.destroy_orphan(*name) for name in named]
    if as_json:
        print_json(said)
    else:
        typer.echo("\n".join(said or ["no orphans"]))


@app.command()
def adopt(
    instance_id: InstanceId,
    workergroup: Annotated[int, typer.Option(metavar="ID", help="The workergroup that it is to be a worker of.")],
    provider: Provider = "",
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make an orphan a worker again: it serves as soon as it has reported.

    Example:
      posthouse orphans adopt posthouse-1f0c7a9e-12 --workergroup 3
    """
    with connect(url, api_key) as client:
        said = client.adopt_orphan(instance_id, workergroup, provider)
    if as_json:
        print_json({"msg": said})
    else:
        typer.echo(said)
