"""Who takes requests now, in the arrays that picking needs."""

from collections.abc import Mapping

import numpy as np

from posthouse.domain.worker import WorkerId
from posthouse.policy.route import Floats, beyond_median, pick


class Bench:
    """Workers that take requests, one array entry each. Membership changes rarely and rebuilds; work changes often."""

    def __init__(self) -> None:
        self._ids: list[WorkerId] = []
        self._rows: dict[WorkerId, int] = {}
        self._perf = np.zeros(0)
        self._work = np.zeros(0)

    def __len__(self) -> int:
        return len(self._ids)

    def seat(self, perf: dict[WorkerId, float], work: dict[WorkerId, float]) -> None:
        """Makes these workers, and no others, take requests."""
        self._ids = list(perf)
        self._rows = {worker_id: row for row, worker_id in enumerate(self._ids)}
        self._perf = np.array([perf[i] for i in self._ids], dtype=np.float64)
        self._work = np.array([work.get(i, 0.0) for i in self._ids], dtype=np.float64)

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
