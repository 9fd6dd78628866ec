"""`posthouse config ...`"""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from posthouse.cli.options import AsJson, ConfigFile
from posthouse.cli.output import print_json, print_rows
from posthouse.cli.serve import server_extra

app = typer.Typer(help="Settings of the server, and where their values come from.", no_args_is_help=True)


@app.command()
def show(
    config: ConfigFile = None,
    long: Annotated[
        bool, typer.Option("--long", help="Also show what each setting means and which values it may have.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show each setting of the server, its value, and where that comes from.

    Flags of `posthouse serve` override the environment, which overrides the file,
    which overrides the defaults.

    Example:
      POSTHOUSE_SERVER__PORT=9000 posthouse config show --long
    """
    with server_extra():
        from pydantic_core import to_jsonable_python

        from posthouse.config import allowed, env_name, known_settings, load_settings, shown, value_of
    settings, origins = load_settings({}, config, os.environ)
    rows = []
    for name, field in known_settings({name: type(p) for name, p in settings.providers.items()}).items():
        value = shown(field, value_of(settings, name))
        row: dict[str, Any] = {
            "setting": name,
            "value": to_jsonable_python(value),
            "from": origins[name],
        }
        if long or as_json:
            row |= {"environment": env_name(name), "allowed": allowed(field), "description": field.description}
        rows.append(row)
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, rows[0], "no settings")


@app.command()
def path(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Print the configuration file that the server reads, whether it is there or not.

    Example:
      posthouse config path
    """
    with server_extra():
        from posthouse.config import FILE_NAME
    file = (config or Path(FILE_NAME)).absolute()
    if as_json:
        print_json({"path": str(file), "exists": file.is_file()})
    else:
        typer.echo(file)
        if not file.is_file():
            typer.echo("not there: every setting comes from the environment or is a default", err=True)
