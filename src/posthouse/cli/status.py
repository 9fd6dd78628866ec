"""`posthouse status`"""

from typing import Any

import typer

from posthouse.cli.options import ApiKey, AsJson, Url, connect
from posthouse.cli.output import plain, print_json, print_rows, printable

COLUMNS = ("endpoint", "state", "workers", "waiting", "oldest_wait_s", "usd_h", "spent_usd", "why")
LESS = ("spent_usd", "oldest_wait_s", "state")
"""Columns that a narrow terminal goes without, the first first."""


def status(url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Tell how all stands: the server, what fails, each endpoint, what waits and why, and what it costs.

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
    typer.echo(f"troubles  {'; '.join(map(printable, found.troubles)) or 'none'}")
    rows: list[dict[str, Any]] = []
    for row in found.standing:
        counts = ", ".join(f"{count} {state}" for state, count in sorted(row.workers.items()))
        rows.append({**plain(row), "workers": counts or "none", "oldest_wait_s": round(row.oldest_wait_s, 1)})
    print_rows(rows, COLUMNS, "no endpoints: posthouse endpoint create NAME", LESS)
