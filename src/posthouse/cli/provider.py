"""`posthouse provider ...`"""

import typer

from posthouse.cli.options import ApiKey, AsJson, Url, connect
from posthouse.cli.output import plain, print_json, print_rows

app = typer.Typer(help="Providers: where workers are rented.", no_args_is_help=True)

COLUMNS = ("name", "type", "default", "capabilities", "answers", "offers", "catalog_age_s")


@app.command("list")
def list_providers(url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the providers that the server uses, what they can do, and whether they answer.

    Example:
      posthouse provider list
    """
    with connect(url, api_key) as client:
        rows = client.providers()
    if as_json:
        print_json(rows)
    else:
        print_rows(
            [{**plain(row), "capabilities": " ".join(row.capabilities)} for row in rows], COLUMNS, "no providers"
        )
