"""`posthouse status`"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer

from posthouse.cli.options import ApiKey, AsJson, Url, connect
from posthouse.cli.output import plain, print_json, print_rows, printable

if TYPE_CHECKING:
    from posthouse.wire import rows

COLUMNS = ("endpoint", "state", "workers", "waiting", "oldest_wait_s", "usd_h", "spent_usd", "why")
LESS = ("spent_usd", "oldest_wait_s", "state")
"""Columns that a narrow terminal goes without, the first first."""


SHOWN_S = 86_400.0
"""For how long a finished update is shown."""


def update_lines(updates: Iterable["rows.Update"], now: float) -> Iterator[str]:
    """How far updates are, a line each, for people; not of those that were over a day ago."""
    for update in updates:
        age_s = max(0.0, now - update.since)
        if update.phase in ("canary", "inactive", "active", "rolled back") or age_s < SHOWN_S:
            reason = f"; {printable(update.reason)}" if update.reason else ""
            counts = f"{update.new} new and {update.old} old workers"
            yield f"workergroup {update.workergroup_id}: {update.phase} for {age_s:,.0f} s, {counts}{reason}"


def limited_text(limited: Mapping[str, int]) -> str:
    """Requests that were refused for limits of their keys, for people."""
    return ", ".join(f"{count:,} for the limit {limit}" for limit, count in limited.items())


def verdict_line(verdict: Mapping[str, Any]) -> str:
    """What keeps an endpoint from what it needs, for people: the word, what that means, and what is known of it."""
    text = f"{verdict['title']} [{verdict['word']}]. {verdict['text']} {verdict['said']}"
    return printable(text.strip())


def status(url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show the state of the server and of each endpoint: what fails, what waits and why, and what it costs.

    Example:
      posthouse status
    """
    with connect(url, api_key) as client:
        found = client.status()
    if as_json:
        print_json(found)
        return
    hours = found.uptime_s / 3600
    up = f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} h" if hours >= 1 else f"{found.uptime_s:.0f} s"
    typer.echo(f"server    {found.version}, up {up}; providers: {', '.join(found.providers)}")
    if found.gateway:
        typer.echo(f"gateway   {found.gateway}")
    typer.echo(f"spend     ${found.usd_h:.4f} an hour now, ${found.spent_usd:.4f} so far")
    for cap in found.caps:
        whose = f"of {cap.endpoint}, " if cap.endpoint else ""
        typer.echo(f"cap       {whose}{cap.text}{'' if cap.level == 'ok' else f' ({cap.level})'}")
    for row in found.standing:
        for line in update_lines(row.updates, time.time()):
            typer.echo(f"update    {row.endpoint}, {line}")
    for row in found.standing:
        if row.limited:
            typer.echo(f"limits    {row.endpoint} refused {limited_text(row.limited)}")
    for row in found.standing:
        if row.verdict is not None:
            typer.echo(f"stuck     {row.endpoint} {verdict_line(plain(row.verdict))}")
    typer.echo(f"troubles  {'; '.join(map(printable, found.troubles)) or 'none'}")
    table: list[dict[str, Any]] = []
    for row in found.standing:
        counts = ", ".join(f"{count} {state}" for state, count in sorted(row.workers.items()))
        table.append({**plain(row), "workers": counts or "none", "oldest_wait_s": round(row.oldest_wait_s, 1)})
    print_rows(table, COLUMNS, "no endpoints: posthouse endpoint create NAME", LESS)
