"""`posthouse key ...`"""

from typing import Annotated, Literal

import typer

from posthouse.cli.options import ApiKey, AsJson, Url, connect
from posthouse.cli.output import print_json, print_rows

app = typer.Typer(help="Account keys, with the scopes route < read < operate < admin.", no_args_is_help=True)

COLUMNS = ("id", "name", "scope", "account", "created_at", "last_used_at", "revoked_at")


@app.command("list")
def list_keys(url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List every key, without the keys themselves.

    Example:
      posthouse key list
    """
    with connect(url, api_key) as client:
        rows = client.keys()
    if as_json:
        print_json(rows)
    else:
        several = len({row.account for row in rows}) > 1
        print_rows(rows, COLUMNS if several else [c for c in COLUMNS if c != "account"], "no keys")


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.")],
    scope: Annotated[Literal["route", "read", "operate", "admin"], typer.Option(help="What it may do.")] = "route",
    account: Annotated[
        str,
        typer.Option(metavar="NAME", help="Whose it is, as `account list` says.", show_default="yours"),
    ] = "",
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it. It is shown this once.

    Example:
      posthouse key create website --scope route
    """
    with connect(url, api_key) as client:
        row = client.create_key(name, scope, account)
    if as_json:
        print_json(row)
    else:
        typer.echo(row.key)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="Id of the key, as `key list` shows it.")],
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a key, at once and for good.

    Example:
      posthouse key revoke 1f0c7a9e
    """
    with connect(url, api_key) as client:
        client.delete_key(key_id)
    if as_json:
        print_json({"id": key_id})
    else:
        typer.echo(f"key {key_id} revoked")
