"""`posthouse account ...`"""

from typing import Annotated

import typer

from posthouse.cli.options import ApiKey, AsJson, Url, connect
from posthouse.cli.output import print_json, print_rows

app = typer.Typer(
    help="Accounts, for several teams on one installation. One team needs none: it has the account `default`.",
    no_args_is_help=True,
)

COLUMNS = ("id", "name", "created_at")


@app.command("list")
def list_accounts(url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List every account. This needs an admin key of the installation.

    Example:
      posthouse account list
    """
    with connect(url, api_key) as client:
        rows = client.accounts()
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, COLUMNS, "no accounts")


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Create an account. `posthouse key create --account NAME` then makes its first key.

    Example:
      posthouse account create research
    """
    with connect(url, api_key) as client:
        row = client.create_account(name)
    if as_json:
        print_json(row)
    else:
        typer.echo(row.id)
