"""`posthouse workergroup ...`"""

from typing import Annotated

import typer

from posthouse.cli.input import check_search, find
from posthouse.cli.options import ApiKey, AsJson, Force, Url, connect, endpoint_names, given, group_ids, template_names
from posthouse.cli.output import plain, print_json, print_record, print_rows
from posthouse.cli.template import KEYS

app = typer.Typer(help="Workergroups: from which template and offers an endpoint gets workers.", no_args_is_help=True)

COLUMNS = ("id", "endpoint_name", "template_id", "provider", "search_params", "gpu_ram", "signature_scheme")

GroupId = Annotated[int, typer.Argument(metavar="WORKERGROUP", help="Id of the workergroup.", autocompletion=group_ids)]
Search = Annotated[
    str | None,
    typer.Option(help="Offer filter, like 'gpu_name=RTX_4090 num_gpus>=2'.", show_default="the template's own"),
]
LaunchArgs = Annotated[str | None, typer.Option(help="Further arguments, for providers that know them.")]
GpuRam = Annotated[float | None, typer.Option(help="Size of the model in GB: an estimate, not a filter.")]
Provider = Annotated[
    str | None,
    typer.Option(
        help="Where to rent: names, types or classes of providers, with commas between, or any.",
        show_default="the server's default",
    ),
]
Scheme = Annotated[
    str | None,
    typer.Option(help="Signature scheme of its workers: A4, A5, A5S or U.", show_default="by each worker's version"),
]


@app.command("list")
def list_workergroups(url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List every workergroup.

    Example:
      posthouse workergroup list
    """
    with connect(url, api_key) as client:
        rows = [plain(row, "api_key") for row in client.workergroups()]
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, COLUMNS, "no workergroups")


@app.command()
def show(group_id: GroupId, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show one workergroup.

    Example:
      posthouse workergroup show 3 --json
    """
    with connect(url, api_key) as client:
        row = plain(find(client.workergroups(), "workergroup", group_id), "api_key")
    (print_json if as_json else print_record)(row)


@app.command()
def create(
    endpoint: Annotated[str, typer.Option(help="Name or id of the endpoint.", autocompletion=endpoint_names)],
    template: Annotated[str, typer.Option(help="Hash, id or name of the template.", autocompletion=template_names)],
    search: Search = None,
    launch_args: LaunchArgs = None,
    gpu_ram: GpuRam = None,
    provider: Provider = None,
    signature_scheme: Scheme = None,
    force: Force = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Create a workergroup of an endpoint, from a template.

    Example:
      posthouse workergroup create --endpoint llama --template llama-cpu
    """
    if not force:
        check_search(search, "search")
    with connect(url, api_key) as client:
        fields = given(
            endpoint_id=client.endpoint(endpoint).id,
            template_id=find(client.templates(), "template", template, KEYS).id,
            search_params=search,
            launch_args=launch_args,
            gpu_ram=gpu_ram,
            provider=provider,
            signature_scheme=signature_scheme,
        )
        group_id = client.create_workergroup(**fields)
    if as_json:
        print_json({"id": group_id})
    else:
        typer.echo(f"workergroup {group_id} created")


@app.command()
def update(
    group_id: GroupId,
    template: Annotated[str | None, typer.Option(help="Hash, id or name of the new template.")] = None,
    search: Search = None,
    launch_args: LaunchArgs = None,
    gpu_ram: GpuRam = None,
    provider: Provider = None,
    signature_scheme: Scheme = None,
    force: Force = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Change a workergroup. What is not given stays. With another template its workers are updated, a canary first.

    Example:
      posthouse workergroup update 3 --search 'gpu_ram>=24'
    """
    if not force:
        check_search(search, "search")
    changes = given(
        template_id=template,
        search_params=search,
        launch_args=launch_args,
        gpu_ram=gpu_ram,
        provider=provider,
        signature_scheme=signature_scheme,
    )
    with connect(url, api_key) as client:
        if template is not None:
            changes["template_id"] = find(client.templates(), "template", template, KEYS).id
        client.update_workergroup(group_id, **changes)
    if as_json:
        print_json({"id": group_id})
    else:
        typer.echo(f"workergroup {group_id} updated")


@app.command("update-workers")
def update_workers(
    group_id: GroupId,
    cancel: Annotated[bool, typer.Option("--cancel", help="Do not update those whose update has not begun.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Restart the workers of a workergroup with its template, a canary first, then a few at a time.

    A version that was rolled back is tried again by this. `posthouse status` shows how far it is.

    Examples:
      posthouse workergroup update-workers 3
      posthouse workergroup update-workers 3 --cancel
    """
    with connect(url, api_key) as client:
        workers = client.update_workers(group_id, cancel)
    if as_json:
        print_json({"id": group_id, "workers_to_update": workers})
    else:
        typer.echo(f"workergroup {group_id}: " + ("update cancelled" if cancel else f"{workers} workers to update"))


@app.command()
def delete(group_id: GroupId, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Delete a workergroup and its workers. They finish what they have first.

    Example:
      posthouse workergroup delete 3
    """
    with connect(url, api_key) as client:
        client.delete_workergroup(group_id)
    if as_json:
        print_json({"id": group_id})
    else:
        typer.echo(f"workergroup {group_id} deleted")
