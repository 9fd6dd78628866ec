"""How much work one request counts: what its client announces, as far as one request can honestly be that much."""

import math
from collections.abc import Iterable
from statistics import median

from posthouse.domain.endpoint import Scaling
from posthouse.fleet.ledger import AtWorker, Request
from posthouse.policy.tuning import TUNING

BEYOND = 1.01
"""How many times `max_queue_time` one request may count: enough to keep its worker to itself, if it is so large."""
FORGETS = 0.995
"""What each request leaves of the weight of those before it, where announced and counted work are compared."""
LEARNED = 10
"""How many requests were compared at a worker before that counts."""


class Claims:
    """What is believed of announced work."""

    def __init__(self) -> None:
        self.scaling = Scaling()
        self.best_perf = self.largest = 0.0
        """What the best worker does per second, 0 until one has shown it; the largest request that one has done."""
        self.factor = 1.0
        """Work that the median worker counts for a unit of announced work: so one of several does not move it."""
        self.usual = 0.0
        """Work that it counts for a request, in the mean; 0 until that is known."""

    def work(self, announced: float) -> float:
        """What a request counts in the ledger; all that is announced while no worker has shown what it does."""
        work, wait_s = announced * self.factor, self.scaling.max_queue_time * BEYOND
        return work if work <= self.best_perf * wait_s else min(work, self._most(wait_s))

    def load(self, work: float) -> float:
        """What one counts in what more workers are made for; a unit while nobody knows: one worker is enough then."""
        wait_s = self.scaling.target_queue_time
        if work <= self.best_perf * wait_s:
            return work
        return min(work, self._most(wait_s) if self.best_perf else 1.0)

    def done(self, announced: float, most: float) -> float:
        """What a request was that is done, where its worker can have done no more than `most` for it; more than 0."""
        work = announced * self.factor
        if work > most:
            work = most
        faded = self.largest * FORGETS
        self.largest = work if work > faded else faded
        return work or 1e-300  # the product may have been rounded to none

    def unstated(self, default: float) -> tuple[float, float]:
        """What a client that announces nothing would announce, and what workers count then; both `default` at first."""
        return (self.usual / self.factor, self.usual) if self.usual else (default, default)

    def shown(self, request: Request, there: AtWorker) -> None:
        """A worker reports a request for the first time: its next report counts it."""
        there.shown += 1
        there.shown_work += request.announced

    def counted(self, there: AtWorker, taken: float) -> None:
        """Notes what a worker counts for the requests that it has shown since its last report."""
        if not there.shown:
            return
        work, count, before, kept = there.shown_work, there.shown, there.compared, FORGETS**there.shown
        there.shown, there.shown_work = 0, 0.0
        counted = min(taken, count * self._most(self.scaling.max_queue_time))
        there.compared = before[0] * kept + work, before[1] * kept + counted, before[2] * kept + count

    def learn(self, workers: Iterable[AtWorker]) -> None:
        """Learns from what workers have counted."""
        if known := [c for w in workers if (c := w.compared)[2] >= LEARNED and c[0] > 0.0 < c[1]]:
            self.factor = _step(self.factor, median([counted / announced for announced, counted, _ in known]))
            self.usual = _step(self.usual, median([counted / count for _, counted, count in known]))

    def _most(self, wait_s: float) -> float:
        """What the best worker does in that time, or twice the largest that was done; infinite while nobody knows."""
        return max(self.best_perf * wait_s, 2.0 * self.largest) or math.inf


def _step(before: float, value: float) -> float:
    """The new value, if it differs much: so most requests count the same as the one before."""
    return value if abs(value - before) > TUNING.tolerance * before else before
