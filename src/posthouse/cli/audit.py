"""`posthouse audit ...`"""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posthouse.cli.options import ApiKey, AsJson, Url, connect, endpoint_names
from posthouse.cli.output import plain, print_json, print_rows, printable
from posthouse.errors import Refused

if TYPE_CHECKING:
    from posthouse.client import Client
    from posthouse.wire import rows

app = typer.Typer(
    help="What people changed and did by hand, and whether the record of it is whole.", no_args_is_help=True
)

PAGE = 1000
"""Acts that are asked for at once."""
COLUMNS = ("id", "done_at", "who", "action", "subject", "change")
LESS = ("id",)
"""Columns that a narrow terminal goes without, the first first."""


@app.command("list")
def list_acts(
    action: Annotated[
        str, typer.Option(metavar="ACTION", help="Those of this kind: `endpoint.update`, or all of `endpoint`.")
    ] = "",
    key: Annotated[str, typer.Option(metavar="KEY", help="Those done with this key, by its id or name.")] = "",
    endpoint: Annotated[
        str,
        typer.Option(
            metavar="ENDPOINT",
            help="Those about an endpoint, its workergroups and workers, by its name or id.",
            autocompletion=endpoint_names,
        ),
    ] = "",
    subject: Annotated[str, typer.Option(metavar="ID", help="Those about the thing with this id or name.")] = "",
    request_id: Annotated[str, typer.Option(metavar="ID", help="Those of this request.")] = "",
    last_s: Annotated[
        float | None, typer.Option("--last", min=1, help="Only those of the last so many seconds.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The latest so many.")] = 50,
    everything: Annotated[bool, typer.Option("--all", help="All of them, however many there are.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List what people changed and did by hand, the latest first.

    Who, what, when, and the values before and after. Secrets are not included.

    Examples:
      posthouse audit list --endpoint llama --last 86400
      posthouse audit list --action key --all --json
    """
    import time

    wanted = {"action": action, "key": key, "endpoint": endpoint, "subject": subject, "request_id": request_id}
    since = 0.0 if last_s is None else time.time() - last_s
    with connect(url, api_key) as client:
        found = list(_pages(client, None if everything else limit, since=since, **wanted))
    if as_json:
        print_json(found)
    else:
        print_rows([_shown(plain(act)) for act in found], COLUMNS, "nothing was done", LESS)


@app.command()
def verify(
    head: Annotated[
        str,
        typer.Option(metavar="ID:HASH", help="What an earlier `verify` printed: tells whether rows since are missing."),
    ] = "",
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Check that no act was changed, removed or added since it was written.

    Exits with 1 if one was. Prints the head of the chain: note it on another machine.
    Only that note shows if someone with access to the database has removed the last rows
    together with their count.

    Example:
      posthouse audit verify --head 118:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    """
    with connect(url, api_key) as client:
        found = client.verify_acts(head)
    if as_json:
        print_json(found)
    else:
        for problem in found.problems:
            typer.echo(printable(problem))
        if found.ok:
            typer.echo(f"{found.rows} acts, all as they were written")
        typer.echo(f"head {found.head or 'none yet'}")
    if not found.ok:
        raise Refused("" if as_json else "the audit log is not as it was written")


def _pages(client: "Client", limit: int | None, **wanted: Any) -> "Iterator[rows.Act]":
    """The acts, page by page."""
    before, left = 0, limit
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        page = client.acts(before=before, limit=size, **wanted)
        yield from page
        if len(page) < size:
            return
        before, left = page[-1].id, None if left is None else left - size


def _shown(act: Mapping[str, Any]) -> dict[str, Any]:
    """An act for people."""
    subject = act["subject"] + (f" {act['name']}" if act["name"] not in ("", act["subject"]) else "")
    return {
        **act,
        "done_at": act["at"],
        "who": act["key_name"] or act["key_id"] or act["via"],
        "subject": subject,
        "change": _change(act),
    }


def _change(act: Mapping[str, Any]) -> str:
    """What changed, in a line."""
    before, after = act["before"], act["after"]
    if act["action"].endswith(".update"):
        return ", ".join(f"{name} {_word(before.get(name))} → {_word(after[name])}" for name in after)
    return ", ".join(f"{name} {_word(value)}" for name, value in (after or before).items() if value not in ("", None))


def _word(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
