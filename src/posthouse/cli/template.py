"""`posthouse template ...`"""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from posthouse.cli.input import find, read_json, read_text
from posthouse.cli.options import ApiKey, AsJson, Url, connect
from posthouse.cli.output import print_json, print_record, print_rows
from posthouse.domain.errors import BadRequest

app = typer.Typer(help="Templates: what a worker runs.", no_args_is_help=True)

COLUMNS = ("id", "name", "hash_id", "image", "tag", "env", "recommended_disk_space")
KEYS = ("hash_id", "id", "name")
"""What a template may be called by."""

Name = Annotated[str, typer.Argument(metavar="TEMPLATE", help="Hash, id or name of the template.")]


def _file_or_text(said: str) -> str:
    """What the file says if `said` names one, else `said` itself."""
    with suppress(OSError, ValueError):  # too long for a name, or with characters that no name has
        if Path(said).is_file():
            return read_text(said)
    return said


@app.command("list")
def list_templates(url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List every template.

    Example:
      posthouse template list
    """
    with connect(url, api_key) as client:
        rows = client.templates()
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, COLUMNS, "no templates")


@app.command()
def show(name: Name, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show one template.

    Example:
      posthouse template show llama-cpu
    """
    with connect(url, api_key) as client:
        row = find(client.templates(), "template", name, KEYS)
    (print_json if as_json else print_record)(row)


@app.command()
def create(
    file: Annotated[
        str | None,
        typer.Argument(metavar="[FILE]", help="JSON object with the template's fields; - reads it from stdin."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name.")] = None,
    image: Annotated[str | None, typer.Option(help="Container image, for providers that run containers.")] = None,
    env: Annotated[str | None, typer.Option(help="Environment and ports: '-e KEY=VALUE -p 3000:3000'.")] = None,
    onstart: Annotated[
        str | None, typer.Option(metavar="FILE|TEXT", help="Shell script that a worker runs at every start.")
    ] = None,
    disk_gb: Annotated[float | None, typer.Option(help="Disk, in GB.")] = None,
    search: Annotated[str | None, typer.Option(help="Offer filter, like 'gpu_ram>=24 num_gpus=1'.")] = None,
    desc: Annotated[str | None, typer.Option(help="Description.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Create a template, from a JSON file, from options, or from both: options win.

    Examples:
      posthouse template create ocr.json
      posthouse template create --name llama --env '-p 3000:3000' --onstart start.sh
    """
    fields = {} if file is None else read_json(read_text(file), file)
    if not isinstance(fields, dict):
        raise BadRequest(f"{file} must be a JSON object, with the template's fields")
    options = {
        "name": name,
        "image": image,
        "env": env,
        "onstart": None if onstart is None else _file_or_text(onstart),
        "recommended_disk_space": disk_gb,
        "extra_filters": search,
        "desc": desc,
    }
    fields |= {field: value for field, value in options.items() if value is not None}
    if not fields.get("name"):
        raise BadRequest("name: a template needs one, in the file or as --name")
    with connect(url, api_key) as client:
        row = client.create_template(**fields)
    if as_json:
        print_json(row)
    else:
        typer.echo(f"template {row.id} created, with the hash {row.hash_id}")


@app.command()
def delete(name: Name, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Delete a template that no workergroup uses.

    Example:
      posthouse template delete llama-cpu
    """
    with connect(url, api_key) as client:
        row = find(client.templates(), "template", name, KEYS)
        client.delete_template(row.id)
    if as_json:
        print_json({"id": row.id})
    else:
        typer.echo(f"template {row.id} deleted")
