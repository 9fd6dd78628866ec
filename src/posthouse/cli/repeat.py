"""`posthouse replay`"""

from pathlib import Path
from typing import Annotated

import typer

from posthouse.cli.options import AsJson
from posthouse.cli.output import print_json, printable
from posthouse.cli.serve import server_extra

SHOWN = 600
"""Characters of a line that are shown around the first difference."""


def replay(
    events: Annotated[Path, typer.Argument(help="A file that `serve --keep-events` or the demo wrote.")],
    as_json: AsJson = False,
) -> None:
    """Play the events of an endpoint's controller again, and compare what it does.

    The same events with the same version give the same effects, byte for byte.
    Exits with 0 if they do; else it shows the first difference and exits with 1.

    Example:
      posthouse replay posthouse-demo/events/1-1790000000.000.jsonl
    """
    with server_extra():
        from posthouse.recording.events import replay as play
    found = play(events)
    if as_json:
        print_json({"events": found.events, "effects": found.effects, "same": not found.line, "line": found.line})
    elif not found.line:
        typer.echo(f"{found.events} events, {found.effects} effects: the same, byte for byte")
    else:
        first = next((i for i, (a, b) in enumerate(zip(found.kept, found.now, strict=False)) if a != b), 0)
        begin = max(0, first - SHOWN // 2)
        typer.echo(f"after {found.events} events the same, line {found.line} differs at character {first + 1}")
        typer.echo(f"kept: {printable(found.kept[begin : begin + SHOWN])}")
        typer.echo(f"now:  {printable(found.now[begin : begin + SHOWN])}")
    raise typer.Exit(1 if found.line else 0)
