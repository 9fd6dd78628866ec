"""`posthouse user ...`"""

import sys
from typing import Annotated, Literal

import typer

from posthouse.cli.options import ApiKey, AsJson, Url, connect
from posthouse.cli.output import print_json, print_rows
from posthouse.errors import BadRequest

app = typer.Typer(
    help="People who sign in to the console with a name and a password. Commands and programs have keys.",
    no_args_is_help=True,
)

COLUMNS = ("name", "scope", "account", "created_at")

Named = Annotated[str, typer.Argument(metavar="NAME", help="What the user signs in with.")]
OfScope = Literal["read", "operate", "admin"]
FromInput = Annotated[bool, typer.Option("--stdin", help="Read the password from the first line that comes in.")]


@app.command("list")
def list_users(url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List who may sign in with a password.

    Example:
      posthouse user list
    """
    with connect(url, api_key) as client:
        rows = client.users()
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, COLUMNS, "no users")


@app.command()
def create(
    name: Named,
    scope: Annotated[OfScope, typer.Option(help="What the user may do.")] = "read",
    account: Annotated[
        str, typer.Option(metavar="NAME", help="Whose it is, as `account list` says.", show_default="yours")
    ] = "",
    stdin: FromInput = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Let somebody sign in to the console with a password, which is asked for.

    Examples:
      posthouse user create anna --scope operate
      head -c 18 /dev/urandom | base64 | tee password | posthouse user create anna --stdin
    """
    password = _password(stdin)
    with connect(url, api_key) as client:
        row = client.create_user(name, password, scope, account)
    if as_json:
        print_json(row)
    else:
        typer.echo(f"user {row.name} may sign in")


@app.command()
def update(
    name: Named,
    scope: Annotated[OfScope | None, typer.Option(help="What the user may do.", show_default=False)] = None,
    password: Annotated[bool, typer.Option("--password", help="Ask for another password.")] = False,
    stdin: FromInput = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Give a user another password or scope. The user's sessions end.

    Example:
      posthouse user update anna --password
    """
    if scope is None and not password and not stdin:
        raise BadRequest("nothing is to change: say --password, --stdin or --scope")
    said = _password(stdin) if password or stdin else None
    with connect(url, api_key) as client:
        row = client.update_user(name, said, scope)
    if as_json:
        print_json(row)
    else:
        typer.echo(f"user {name} changed")


@app.command()
def delete(name: Named, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Delete a user, whose sessions end.

    Example:
      posthouse user delete anna
    """
    with connect(url, api_key) as client:
        client.delete_user(name)
    if as_json:
        print_json({"name": name})
    else:
        typer.echo(f"user {name} deleted")


def _password(stdin: bool) -> str:
    """A password that somebody types twice, or that a program gives."""
    if stdin:
        return sys.stdin.readline(2048).rstrip("\r\n")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
