"""Who takes requests now, in the arrays that picking needs."""

from collections.abc import Mapping

import numpy as np

from posthouse.domain.worker import WorkerId
from posthouse.policy.route import Floats, beyond_median, pick

LONGEST_UNIT_S = 1e100
"""Seconds for a unit of work. Above it an expected end could be infinite."""


class Bench:
    """Workers that take requests, one array entry each. Membership changes rarely and rebuilds; work changes often.

    Invariant: `_end_s[row] == (_work[row] + _cost) * _unit_s[row]`: when each worker would finish a request that costs
    as much as the latest one. Most clients announce the same cost again and again, so it is kept and not made anew.
    """

    def __init__(self) -> None:
        self._ids: list[WorkerId] = []
        self._rows: dict[WorkerId, int] = {}
        self._work = np.zeros(0)
        self._unit_s = np.zeros(0)
        """Seconds for a unit of work: multiplying is quicker than dividing by the performance."""
        self._end_s = np.zeros(0)
        self._cost = 0.0
        self._plain = False

    def __len__(self) -> int:
        return len(self._ids)

    def seat(self, perf: dict[WorkerId, float], work: dict[WorkerId, float]) -> None:
        """Makes these workers, and no others, take requests."""
        self._ids = list(perf)
        self._rows = {worker_id: row for row, worker_id in enumerate(self._ids)}
        self._work = np.array([work.get(i, 0.0) for i in self._ids], dtype=np.float64)
        with np.errstate(divide="ignore", over="ignore"):
            self._unit_s = 1.0 / np.array([perf[i] for i in self._ids], dtype=np.float64)
        self._plain = bool(self._ids) and bool(self._unit_s.max() <= LONGEST_UNIT_S)
        self._end_s = np.zeros_like(self._work)
        if self._plain:
            self._expect(self._cost)

    def set_work(self, worker_id: WorkerId, work: float) -> None:
        """Notes how much work a worker has; nothing if it takes no requests."""
        row = self._rows.get(worker_id)
        if row is not None:
            self._work[row] = work
            if self._plain:
                self._end_s[row] = (work + self._cost) * self._unit_s[row]

    def soonest(self, cost: float, max_queue_s: float, die: int) -> WorkerId | None:
        """What `pick` answers where nobody is avoided or suspected, at a fraction of its cost."""
        if self._plain and cost > 0.0:
            if cost != self._cost:
                self._expect(cost)
            row = self._end_s.argmin()
            if self._end_s[row] <= max_queue_s:  # and so is its wait, for the end is later
                return self._ids[row]
            wait_s = self._work * self._unit_s
            if wait_s[wait_s.argmin()] > max_queue_s:  # every wait is above it, as with each poll of a long queue
                return None
        return self.pick(cost, max_queue_s, die, set(), {})

    def _expect(self, cost: float) -> None:
        np.add(self._work, cost, self._end_s)
        np.multiply(self._end_s, self._unit_s, self._end_s)
        self._cost = cost

    def pick(
        self, cost: float, max_queue_s: float, die: int, avoid: set[WorkerId], handicaps_s: Mapping[WorkerId, float]
    ) -> WorkerId | None:
        """The worker that would finish the request soonest, none of `avoid`; None if every one is too busy.

        `handicaps_s`: of workers that are suspected to be dead.
        """
        unit_s = self._unit_s
        if avoid and (rows := [self._rows[i] for i in avoid if i in self._rows]):
            unit_s = unit_s.copy()
            unit_s[rows] = np.inf
        handicaps: Floats | float = 0.0
        if held_against := {self._rows[i]: s for i, s in handicaps_s.items() if i in self._rows}:
            handicaps = np.zeros_like(unit_s)
            handicaps[list(held_against)] = list(held_against.values())
            handicaps = beyond_median(handicaps)
        row = pick(self._work, unit_s, cost, max_queue_s, die, handicaps)
        return None if row is None else self._ids[row]
