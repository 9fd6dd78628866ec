"""`posthouse template ...`"""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posthouse.cli.described import with_options
from posthouse.cli.input import check_search, find, read_json, read_text
from posthouse.cli.options import ApiKey, AsJson, Force, Url, connect, given, template_names
from posthouse.cli.output import print_json, print_record, print_rows
from posthouse.errors import BadRequest

if TYPE_CHECKING:
    from posthouse.wire.rows import Template

app = typer.Typer(help="Templates: what a worker runs.", no_args_is_help=True)

COLUMNS = ("id", "name", "hash_id", "image", "tag", "env", "recommended_disk_space")
KEYS = ("hash_id", "id", "name")
"""What a template may be called by."""

Name = Annotated[
    str,
    typer.Argument(metavar="TEMPLATE", help="Hash, id or name of the template.", autocompletion=template_names),
]


File = Annotated[
    str | None,
    typer.Argument(metavar="FILE", help="JSON object with the template's fields; - reads it from stdin."),
]
OPTIONS: dict[str, Any] = {
    "image": Annotated[str | None, typer.Option(help="Container image, for providers that run containers.")],
    "env": Annotated[str | None, typer.Option(help="Environment and ports: '-e KEY=VALUE -p 3000:3000'.")],
    "onstart": Annotated[
        str | None, typer.Option(metavar="FILE|TEXT", help="Shell script that a worker runs at every start.")
    ],
    "disk_gb": Annotated[float | None, typer.Option(help="Disk, in GB.")],
    "search": Annotated[str | None, typer.Option(help="Offer filter, like 'gpu_ram>=24 num_gpus=1'.")],
    "loading_timeout_s": Annotated[
        float | None,
        typer.Option(min=0, help="Longest time until a worker is ready, in seconds; 0: as the server says."),
    ],
    "desc": Annotated[str | None, typer.Option(help="Description.")],
}
WIRE = {"disk_gb": "recommended_disk_space", "search": "extra_filters"}
"""Options whose field has another name."""


def _file_or_text(said: str, force: bool) -> str:
    """What the file says if `said` names one, else `said` itself. Raises: BadRequest where that looks like a file."""
    with suppress(OSError, ValueError):  # too long for a name, or with characters that no name has
        if Path(said).is_file():
            return read_text(said)
    if said.strip() and len(said.split()) == 1 and not force:
        raise BadRequest(f"--onstart: there is no file {said[:200]}; --force takes it as the script itself")
    return said


def _tell(row: "Template", how: str, as_json: bool) -> None:
    if as_json:
        print_json(row)
    else:
        typer.echo(f"template {row.id} {how}, with the hash {row.hash_id}")


def _fields(file: str | None, options: dict[str, Any], force: bool) -> dict[str, Any]:
    """The fields that a file and options give; options win. Raises: BadRequest."""
    fields = {} if file is None else read_json(read_text(file), file)
    if not isinstance(fields, dict):
        raise BadRequest(f"{file} must be a JSON object, with the template's fields")
    if (onstart := options.get("onstart")) is not None:
        options["onstart"] = _file_or_text(onstart, force)
    fields |= {WIRE.get(name, name): value for name, value in options.items()}
    if "onstart" in fields and not str(fields["onstart"] or "").strip() and not force:
        raise BadRequest("onstart: is empty, so a worker would run nothing; leave it out, or --force sends it")
    if not force:
        check_search(fields.get("extra_filters"), "search")
    return fields


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
@with_options("options", OPTIONS)
def create(
    file: File = None,
    name: Annotated[str | None, typer.Option(help="Name.")] = None,
    force: Force = False,
    *,
    options: dict[str, Any],
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Create a template, from a JSON file, from options, or from both: options win.

    Examples:
      posthouse template create ocr.json
      posthouse template create --name llama --env '-p 3000:3000' --onstart start.sh
    """
    fields = _fields(file, options | ({} if name is None else {"name": name}), force)
    if not fields.get("name"):
        raise BadRequest("name: a template needs one, in the file or as --name")
    with connect(url, api_key) as client:
        there = [] if force else [row.id for row in client.templates() if row.name == fields["name"]]
        if there:
            raise BadRequest(
                f"name: template {there[0]} is called {fields['name']!r} already: `posthouse template update` changes "
                "it, another name makes another, and --force makes a second of this name"
            )
        row = client.create_template(**fields)
    _tell(row, "created", as_json)


@app.command()
@with_options("options", OPTIONS)
def update(
    name: Name,
    file: File = None,
    new_name: Annotated[str | None, typer.Option("--name", help="New name.")] = None,
    force: Force = False,
    *,
    options: dict[str, Any],
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Change a template; what is not given stays. Workers that run it are updated, a few at a time.

    Examples:
      posthouse template update llama --onstart start.sh
      posthouse template update ocr ocr.json
    """
    fields = given(**_fields(file, options | ({} if new_name is None else {"name": new_name}), force))
    with connect(url, api_key) as client:
        row = client.update_template(find(client.templates(), "template", name, KEYS).id, **fields)
    _tell(row, "updated", as_json)


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
