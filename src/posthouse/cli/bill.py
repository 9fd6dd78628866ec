"""`posthouse bill`"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posthouse.cli.options import ApiKey, AsJson, Url, connect, endpoint_names
from posthouse.cli.output import console, print_json, print_rows, printable

if TYPE_CHECKING:
    from posthouse.wire import rows

PARTS = ("headroom", "starts", "storage", "whole_workers", "waits_not_used")
COLUMNS = ("day", "paid", "least", *PARTS, "requests", "recorded_h")
LESS = ("recorded_h", "requests")
"""Columns that a narrow terminal goes without, the first first."""


def bill(
    endpoint: Annotated[
        str,
        typer.Argument(metavar="ENDPOINT", help="Name or id of the endpoint.", autocompletion=endpoint_names),
    ],
    days: Annotated[int, typer.Option(min=0, max=366, help="This many whole days, and today.")] = 13,
    wait_s: Annotated[
        float | None,
        typer.Option("--wait", min=0, help="How long a request may wait.", show_default="its target_queue_time"),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show what an endpoint cost each day, the least that it could have cost, and what causes the difference.

    In US dollars, of days in UTC, from its recorded traffic. The least and the parts add up
    to what was paid.

    Example:
      posthouse bill llama --days 13
    """
    with connect(url, api_key) as client:
        found = client.bill(endpoint, days, wait_s)
    if as_json:
        print_json(found)
        return
    table = [_row(datetime.fromtimestamp(day.begin, UTC).strftime("%Y-%m-%d"), day) for day in found.days]
    print_rows([*table, _row("all", found.total)], COLUMNS, "nothing is recorded", LESS)
    dear = sorted(PARTS, key=lambda part: -getattr(found.total, part))
    for part in dear:
        if getattr(found.total, part) > 0.01 * found.total.usd:
            share = getattr(found.total, part) / found.total.usd
            console().print(f"{part:<15} {share:4.0%}  less with {printable(found.what_if[part])}", markup=False)
    for note in found.notes:
        console(stderr=True).print(f"note: {printable(note)}", markup=False)


def _row(name: str, day: "rows.BillDay") -> dict[str, Any]:
    parts = {part: round(getattr(day, part), 4) for part in PARTS}
    row = {"day": name, "paid": round(day.usd, 4), "least": round(day.least_usd, 4), **parts}
    return {**row, "requests": day.requests, "recorded_h": round(day.recorded_s / 3600, 1)}
