"""The logs of an endpoint: what happened to its workers, and every decision that was kept, as text."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from posthouse.domain.endpoint import WorkergroupId
from posthouse.engine.history import Line
from posthouse.engine.hub import Hub
from posthouse.engine.journal import orders
from posthouse.engine.managed import ManagedEndpoint
from posthouse.fleet.events import Level
from posthouse.ports import JournalEntry

DECISIONS = 500
"""Decisions of the journal that are shown at most: over eight hours where nothing changes, as one a minute is kept."""


async def logs(
    hub: Hub, managed: ManagedEndpoint, tail: int | None = None, group_id: WorkergroupId | None = None
) -> dict[str, str]:
    """A text for each level, with a line for each thing that happened; at most `tail` lines, the latest.

    Of one workergroup's workers only, if it is given; decisions are the whole endpoint's in any case.
    """
    entries = await hub.store.journal(managed.fleet.endpoint.id, DECISIONS)
    # Thousands of lines take milliseconds, for which no request should have to wait.
    return await asyncio.to_thread(_texts, managed.history.lines(group_id), entries, tail)


def _texts(history: Sequence[Line], entries: Sequence[JournalEntry], tail: int | None) -> dict[str, str]:
    lines = sorted([*history, *map(_decision, entries)], key=lambda line: line.at)
    rows = [(line.level, _row(line)) for line in lines]
    texts = {}
    for level in Level:
        shown = [row for least, row in rows if least <= level]
        texts[str(level)] = "\n".join(shown if tail is None else shown[max(0, len(shown) - tail) :])
    return texts


def _decision(entry: JournalEntry) -> Line:
    changes = entry.body["goals"] or entry.body["rentals"]
    reasons = (f"{r['what']} {_shown(r['value'])} ({r['rule']})" for r in entry.body["because"])
    text = f"decided: {orders(entry.body)}; because: {', '.join(reasons)}"
    return Line(entry.at, Level.INFO1 if changes else Level.TRACE, text)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row(line: Line) -> str:
    at = datetime.fromtimestamp(line.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    who = "" if line.worker_id is None else f"worker {line.worker_id} "
    # Workers and providers write into what is shown, and what is shown may steer a terminal.
    text = line.text
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    return f"{at} {line.level!s} {who}{text}"
