"""Who takes requests now, in the arrays that picking needs."""

from collections.abc import Mapping

import numpy as np

from posthouse.domain.worker import WorkerId
from posthouse.policy.route import Floats, beyond_median, pick

LEAST_PLAIN_PERF = 1e-100
"""In work per second. Below it an expected end could be infinite."""


class Bench:
    """Workers that take requests, one array entry each. Membership changes rarely and rebuilds; work changes often."""

    def __init__(self) -> None:
        self._ids: list[WorkerId] = []
        self._rows: dict[WorkerId, int] = {}
        self._perf = np.zeros(0)
        self._work = np.zeros(0)
        self._end_s = np.zeros(0)
        """Room for the expected ends, so that none is made for each request."""
        self._plain = False

    def __len__(self) -> int:
        return len(self._ids)

    def seat(self, perf: dict[WorkerId, float], work: dict[WorkerId, float]) -> None:
        """Makes these workers, and no others, take requests."""
        self._ids = list(perf)
        self._rows = {worker_id: row for row, worker_id in enumerate(self._ids)}
        self._perf = np.array([perf[i] for i in self._ids], dtype=np.float64)
        self._work = np.array([work.get(i, 0.0) for i in self._ids], dtype=np.float64)
        self._end_s = np.empty_like(self._perf)
        self._plain = bool(self._ids) and bool(self._perf.min() >= LEAST_PLAIN_PERF)

    def set_work(self, worker_id: WorkerId, work: float) -> None:
        """Notes how much work a worker has; nothing if it takes no requests."""
        row = self._rows.get(worker_id)
        if row is not None:
            self._work[row] = work

    def pick(
        self, cost: float, max_queue_s: float, die: int, avoid: set[WorkerId], handicaps_s: Mapping[WorkerId, float]
    ) -> WorkerId | None:
        """The worker that would finish the request soonest, none of `avoid`; None if every one is too busy.

        `handicaps_s`: of workers that are suspected to be dead.
        """
        if self._plain and not avoid and not handicaps_s:
            if (row := self._soonest(cost, max_queue_s, die)) is not None:
                return self._ids[row]
            if self._all_above(max_queue_s):
                return None
        perf = self._perf
        if avoid and (rows := [self._rows[i] for i in avoid if i in self._rows]):
            perf = perf.copy()
            perf[rows] = 0.0
        handicaps: Floats | float = 0.0
        if held_against := {self._rows[i]: s for i, s in handicaps_s.items() if i in self._rows}:
            handicaps = np.zeros_like(perf)
            handicaps[list(held_against)] = list(held_against.values())
            handicaps = beyond_median(handicaps)
        row = pick(self._work, perf, cost, max_queue_s, die, handicaps)
        return None if row is None else self._ids[row]

    def _soonest(self, cost: float, max_queue_s: float, die: int) -> int | None:
        """What `pick` answers where nobody is avoided or suspected, at a fraction of its cost.

        Who would finish soonest is looked for among all, and what `max_queue_s` allows asked only of those found. None:
        they are too busy, and somebody else may not be.
        """
        end_s = self._end_s
        np.add(self._work, cost, out=end_s)
        np.divide(end_s, self._perf, out=end_s)
        soonest_s = end_s[end_s.argmin()]
        best = (end_s == soonest_s).nonzero()[0]
        if soonest_s > max_queue_s:  # else no wait is above it either, for an end is later than the wait before it
            best = best[self._work[best] <= max_queue_s * self._perf[best]]
            if not best.size:
                return None
        return int(best[die % best.size])

    def _all_above(self, max_queue_s: float) -> bool:
        """True if every wait is above `max_queue_s`, as with each poll of a long queue."""
        wait_s = self._end_s
        np.divide(self._work, self._perf, out=wait_s)
        return bool(wait_s[wait_s.argmin()] > max_queue_s * (1 + 1e-12))  # what rounding decides, `pick` decides
