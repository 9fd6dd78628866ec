"""The logs of an endpoint: what happened to its workers, and every decision that was kept, as text."""

from datetime import UTC, datetime

from posthouse.domain.workergroup import WorkergroupId
from posthouse.engine.hub import Hub, Stall
from posthouse.engine.journal import orders
from posthouse.fleet.history import Level, Line
from posthouse.ports import JournalEntry

DECISIONS = 500
"""Decisions of the journal that are shown at most: over eight hours where nothing changes, as one a minute is kept."""


async def logs(
    hub: Hub, stall: Stall, tail: int | None = None, group_id: WorkergroupId | None = None
) -> dict[str, str]:
    """A text for each level, with a line for each thing that happened; at most `tail` lines, the latest.

    Of one workergroup's workers only, if it is given; decisions are the whole endpoint's in any case.
    """
    entries = await hub.store.journal(stall.fleet.endpoint.id, DECISIONS)
    lines = [*stall.fleet.history.lines(group_id), *map(_decision, entries)]
    lines.sort(key=lambda line: line.at)
    return {str(level): _text([line for line in lines if line.level <= level], tail) for level in Level}


def _decision(entry: JournalEntry) -> Line:
    changes = entry.body["goals"] or entry.body["rentals"]
    reasons = (f"{r['what']} {_shown(r['value'])} ({r['rule']})" for r in entry.body["because"])
    text = f"decided: {orders(entry.body)}; because: {', '.join(reasons)}"
    return Line(entry.at, Level.INFO1 if changes else Level.TRACE, text)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(lines: list[Line], tail: int | None) -> str:
    return "\n".join(map(_row, lines[len(lines) - tail :] if tail is not None and tail < len(lines) else lines))


def _row(line: Line) -> str:
    at = datetime.fromtimestamp(line.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    who = "" if line.worker_id is None else f"worker {line.worker_id} "
    # Workers and providers write into what is shown, and what is shown may steer a terminal.
    text = "".join(char if char.isprintable() else " " for char in line.text)
    return f"{at} {line.level!s} {who}{text}"
