"""When a worker is expected, and how sure that is: from how long the latest ones took.

How long starts take is taken as log-normal. What a few of them say of the next is then Student's distribution of its
logarithm, with a weak belief beforehand that starts differ by a fifth: one start alone says something, too.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

from posthouse.domain.lifecycle import State
from posthouse.domain.worker import Worker
from posthouse.engine.managed import Expected, ManagedEndpoint
from posthouse.fleet.controller import Controller

BELIEVED_SIGMA: Final = 0.2
"""Standard deviation of the logarithm of how long a start takes, before anything is known; it counts as one start."""
SHARE: Final = 0.9
"""Of starts, that end within the interval."""
MAX_STARTS: Final = 10
"""Kinds and moments of starts that are looked at: more make the first hardly sooner."""
MAX_S: Final = 86_400.0
KEPT_S: Final = 2.0
"""How long an estimate of starts is used again, less the time since: thousands may ask."""
_STEPS: Final = 12
_NEW: Final = frozenset({State.WANTED, State.CREATING, State.LOADING, State.MODEL_LOADING})


@dataclass(frozen=True, slots=True)
class _Start:
    """A start that has taken `passed_s` so far."""

    center: float
    """Of the logarithm."""
    scale: float
    freedom: float
    passed_s: float
    so_far: float = 1.0
    """The chance that one has taken so long."""

    def lasts(self, more_s: float) -> float:
        """The chance that it takes that much longer, now that it has taken so long."""
        return self.beyond(self.passed_s + more_s) / self.so_far if self.so_far > 0 else 0.0

    def beyond(self, seconds: float) -> float:
        """The chance that such a start takes longer than that."""
        if seconds <= 0:
            return 1.0
        t, n = (math.log(seconds) - self.center) / self.scale, self.freedom
        # Source: Wallace, Bounds on normal approximations to Student's and the chi-square distributions, 1959.
        z = math.sqrt(n * math.log1p(t * t / n)) * (8 * n + 1) / (8 * n + 3)
        return 0.5 * math.erfc(math.copysign(z, t) / math.sqrt(2))


def expected(managed: ManagedEndpoint, now: float) -> Expected:
    """When a worker is expected to be free for a request that waits.

    A worker that comes takes as long as others took; before one has come here, nobody can tell. Where some are ready,
    the work that is at them and waits is shared by them.
    """
    fleet = managed.fleet
    workers, ledger = list(fleet.workers.values()), fleet.requests.ledger
    if ready := [worker.perf for worker in workers if worker.state is State.IDLE and worker.perf > 0]:
        count = len(ledger) - len(ledger.waiting)
        work = ledger.outstanding() * (1 + len(ledger.waiting) / count) if count else 0.0
        return Expected(work / sum(ready))
    at, known = managed.expected
    passed_s = now - at
    if 0 <= passed_s < KEPT_S and known.in_s > passed_s:
        return Expected(known.in_s - passed_s, max(0.0, known.from_s - passed_s), known.by_s - passed_s)
    starts, edge = _starts(fleet, workers, now), (1 - SHARE) / 2
    known = Expected(*(_first(starts, share) for share in (0.5, edge, 1 - edge))) if starts else Expected()
    managed.expected = now, known
    return known


def _starts(fleet: Controller, workers: Iterable[Worker], now: float) -> list[tuple[_Start, int]]:
    """Those that are under way, the soonest first, and how many are just so."""
    learned = fleet.roster.estimator
    found = Counter[_Start]()
    for worker in workers:
        if worker.state is State.STARTING:
            took_s, passed_s = learned.start_s, now - worker.since
        elif worker.state in _NEW:
            took_s, passed_s = learned.create_s_for(worker), now - worker.created_at
        else:
            continue
        if start := _start([s for s in took_s if s > 0], passed_s):
            found[start] += 1
    return sorted(found.items(), key=lambda item: item[0].center)[:MAX_STARTS]


def _start(took_s: Sequence[float], passed_s: float) -> _Start | None:
    if not took_s:
        return None
    logs = [math.log(seconds) for seconds in took_s]
    center = fmean(logs)
    freedom = len(logs)
    spread = BELIEVED_SIGMA**2 + sum((log - center) ** 2 for log in logs)
    start = _Start(center, math.sqrt(spread / freedom * (1 + 1 / len(logs))), freedom, passed_s)
    return replace(start, so_far=start.beyond(passed_s))


def _first(starts: Sequence[tuple[_Start, int]], share: float) -> float:
    """By when the first is there, with this chance."""

    def there(by_s: float) -> bool:
        return 1 - math.prod(start.lasts(by_s) ** count for start, count in starts) >= share

    low, high = 0.0, 1.0
    while high < MAX_S and not there(high):
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if there(middle) else (middle, high)
    return high
