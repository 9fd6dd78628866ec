"""Which workers died at work, and which requests get none any more because several died while they had it."""

from posthouse.domain.lifecycle import Observation, State
from posthouse.domain.worker import WorkerId
from posthouse.fleet.events import Moved
from posthouse.fleet.latest import Latest
from posthouse.fleet.ledger import Request
from posthouse.fleet.roster import Roster

MAX_DEATHS = 2
"""So many workers may die while they have a request, and no more."""
DIED_KEPT_S = 90.0
"""Within this time a request failed at a worker that died of it: longer than one is silent before it counts as dead."""
MAX_DENIED = 1_000
"""How many requests that are given no worker any more are remembered, and as many dead workers."""
DEATHS = (Observation.REPORTED_ERROR, Observation.REPORTED_LOADING, Observation.EXITED)
"""What shows that a worker died at work. One that falls silent, or is taken away, may have lost its network or host."""


class Deaths:
    """The latest of both."""

    def __init__(self, lives: Roster) -> None:
        self._lives = lives
        self.denied: Latest[int, str] = Latest(MAX_DENIED)
        """Why a request is given no worker any more."""
        self._died: Latest[WorkerId, tuple[float, str]] = Latest(MAX_DENIED)  # when, and what was said of it

    def moved(self, moved: Moved, now: float) -> None:
        """A worker changed its state."""
        if moved.before.state is State.IDLE and moved.why in DEATHS:
            self._died[moved.after.id] = now, moved.after.message or "it ended"

    def may_kill(self, request: Request) -> bool:
        """True if it may have killed more than one: of those that are dead, and that were not heard of since."""
        failures = request.failures or {}
        return sum(i in self._died or self._lives.owes_word(i, f.last_at) for i, f in failures.items()) > 1

    def deny(self, request: Request) -> str:
        """Why the request is given no worker any more, if enough died while they had it; else empty."""
        found = [(self._died[i], f) for i, f in (request.failures or {}).items() if i in self._died]
        died = [text for (at, text), f in found if abs(f.last_at - at) < DIED_KEPT_S]
        if len(died) < MAX_DEATHS:
            return ""
        why = f"it is given no worker any more, for {len(died)} died while they had it; the last one: {died[-1]}"
        self.denied[request.idx] = why
        return why
