"""What happened to one endpoint and its workers, in sentences: the latest lines of each level."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

from posthouse.domain.endpoint import WorkergroupId
from posthouse.domain.lifecycle import Command, Event, Observation, State
from posthouse.domain.worker import Worker, WorkerId
from posthouse.fleet.events import Level

KEPT = 500
"""Lines kept of each level, so that frequent lines never drive out those that matter. With texts of at most `TEXT`
characters that is below 2 MB for an endpoint."""
TEXT = 800
"""Longest line, in characters: a worker's message has at most 500."""


WHY: dict[Event, str] = {
    Command.RENT: "its provider is asked for a machine",
    Command.START: "its provider is asked to start it",
    Command.STOP: "its provider is asked to stop it",
    Command.UPDATE: "it is updated to what its template says now",
    Command.DESTROY: "its provider is asked to destroy it",
    Observation.PROVISIONING: "its provider has accepted it",
    Observation.PULLING: "its provider lists it as loading",
    Observation.RUNNING: "its provider lists it as running",
    Observation.HALTED: "its provider lists it as stopped",
    Observation.EXITED: "its provider lists it as ended",
    Observation.ABSENT: "its provider no longer lists it",
    Observation.REPORTED_LOADING: "it reports that it is not ready",
    Observation.REPORTED_READY: "it reports that it is ready",
    Observation.REPORTED_ERROR: "it reports an error",
    Observation.SILENT: "it has not reported for too long",
    Observation.USELESS: "no request ends well there",
    Observation.OVERDUE: "it has made no progress for too long",
    Observation.FAILED: "its command was refused",
}

_FAILED = frozenset({State.ERROR, State.UNAVAIL})
_ENDED = frozenset({State.STOPPED, State.DESTROYED})
_ENDS_SOON = frozenset({State.STOPPING, State.DESTROYING, State.ERROR})


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened."""

    at: float
    level: Level
    text: str
    worker_id: WorkerId | None = None
    """None: it concerns the whole endpoint."""
    group_id: WorkergroupId | None = None
    state: str = ""
    """The worker's new state; empty where it did not change."""


class History:
    """The latest lines of each level."""

    def __init__(self) -> None:
        self._rings: dict[Level, deque[tuple[int, Line]]] = {level: deque(maxlen=KEPT) for level in Level}
        self._number = 0
        self.heard: Callable[[Line], None] = lambda line: None
        """Called with every line."""

    def note(
        self,
        now: float,
        level: Level,
        text: str,
        worker_id: WorkerId | None = None,
        group_id: WorkergroupId | None = None,
        state: str = "",
    ) -> None:
        """Adds a line about a worker, or about the whole endpoint. `state`: the worker's new state."""
        self._number += 1
        line = Line(now, level, text[:TEXT], worker_id, group_id, state)
        self._rings[level].append((self._number, line))
        self.heard(line)

    def moved(self, now: float, before: Worker, after: Worker, why: Event) -> None:
        """Adds a line for a change of state: a failure where the worker broke, or ended although nobody asked for it.

        A refused command is noted where the refusal is handled.
        """
        broke = after.state in _FAILED
        surprised = isinstance(why, Observation) and after.state in _ENDED and before.state not in _ENDS_SOON
        failed = (broke or surprised) and why is not Observation.FAILED
        text = f"went from {before.state} to {after.state}: {WHY[why]}"
        if failed and after.message:
            text += f": {after.message}"
        elif after.state is State.IDLE:
            text += f", {after.perf:g} work/s"
        level = Level.INFO0 if failed else Level.INFO1
        self.note(now, level, text, after.id, after.group_id, str(after.state))

    def lines(self, group_id: WorkergroupId | None = None) -> list[Line]:
        """Every line, in the order in which they were added; only those of `group_id`, if it is given."""
        numbered = sorted(chain(*self._rings.values()))
        return [line for _, line in numbered if group_id in (None, line.group_id)]
