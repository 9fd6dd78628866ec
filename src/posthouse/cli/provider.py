"""`posthouse provider ...`"""

from typing import Annotated

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


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the provider, as `provider list` shows it.")],
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Ask a provider now: say what works there, and what does not. Nothing is made or changed.

    Exits with 1 if something does not work.

    Example:
      posthouse provider check process
    """
    with connect(url, api_key) as client:
        rows = client.check_provider(name)
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, ("what", "ok", "text"), "nothing was asked")
    if not all(row.ok for row in rows):
        raise typer.Exit(1)
