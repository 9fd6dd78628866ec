"""`posthouse key ...`"""

from typing import Annotated, Literal

import typer

from posthouse.cli.options import ApiKey, AsJson, Url, connect
from posthouse.cli.output import print_json, print_rows

app = typer.Typer(help="Account keys, with the scopes route < read < operate < admin.", no_args_is_help=True)

LIMITS = ("requests_per_minute", "work_per_minute", "at_once")
USED = ("used_requests", "used_work", "refused_requests")
COLUMNS = ("id", "name", "scope", "account", *LIMITS, *USED, "usd_month", "created_at", "last_used_at", "revoked_at")
LESS = ("created_at", "revoked_at", "last_used_at")
"""Columns that a narrow terminal goes without, the first first."""

RequestsPerMinute = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Most requests per minute; 0: no limit.", show_default=False),
]
WorkPerMinute = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Most work per minute, in the units of the endpoints: of models of text, tokens that they write. "
        "0: no limit.",
        show_default=False,
    ),
]
AtOnce = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Most requests that wait or run at once; 0: no limit.", show_default=False),
]


@app.command("list")
def list_keys(url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List every key, without the keys themselves: what it cost this month (UTC),
    and of those with limits also what they used.

    Example:
      posthouse key list
    """
    with connect(url, api_key) as client:
        rows = client.keys()
    if as_json:
        print_json(rows)
    else:
        without = set() if len({row.account for row in rows}) > 1 else {"account"}
        without |= {name for name in LIMITS if not any(getattr(row, name) for row in rows)}
        if without >= {*LIMITS} and not any(row.used_requests or row.refused_requests for row in rows):
            without |= {*USED}
        print_rows(rows, [c for c in COLUMNS if c not in without], "no keys", LESS)


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.")],
    scope: Annotated[Literal["route", "read", "operate", "admin"], typer.Option(help="What it may do.")] = "route",
    account: Annotated[
        str,
        typer.Option(metavar="NAME", help="Whose it is, as `account list` says.", show_default="yours"),
    ] = "",
    requests_per_minute: RequestsPerMinute = None,
    work_per_minute: WorkPerMinute = None,
    at_once: AtOnce = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it. It is shown this once.

    Examples:
      posthouse key create website --scope route
      posthouse key create alice --requests-per-minute 60 --work-per-minute 20000 --at-once 4
    """
    with connect(url, api_key) as client:
        row = client.create_key(
            name,
            scope,
            account,
            requests_per_minute=requests_per_minute,
            work_per_minute=work_per_minute,
            at_once=at_once,
        )
    if as_json:
        print_json(row)
    else:
        typer.echo(row.key)


@app.command()
def update(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="Id of the key, as `key list` shows it.")],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What the key is for.", show_default=False)] = None,
    requests_per_minute: RequestsPerMinute = None,
    work_per_minute: WorkPerMinute = None,
    at_once: AtOnce = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Give a key other limits, or another name. What is not given stays.

    Example:
      posthouse key update 1f0c7a9e --work-per-minute 50000
    """
    with connect(url, api_key) as client:
        row = client.update_key(
            key_id,
            name,
            requests_per_minute=requests_per_minute,
            work_per_minute=work_per_minute,
            at_once=at_once,
        )
    if as_json:
        print_json(row)
    else:
        typer.echo(f"key {key_id} changed")


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
