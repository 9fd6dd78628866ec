"""Who takes requests now, in the arrays that picking needs."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from posthouse.domain.worker import WorkerId
from posthouse.fleet.events import Counters, Wish
from posthouse.fleet.ledger import AtWorker
from posthouse.policy.faults import Floats, beyond_median
from posthouse.policy.route import WARM_SHARE, Uints, end_s, favourite, pick, seeds, work_ahead

MAX_UNIT_S = 1e20
"""Most seconds for a unit of work. With more an expected end could be infinite, so such a worker takes nothing."""


class RoutingTable:
    """Workers that take requests, one array entry each. Membership changes rarely and rebuilds; work changes often.

    Invariant: `_ends_s[row]` is `end_s(_work[row], _unit_s[row], _cost)`, to seven digits. Most clients announce the
    same cost again and again, so what follows from the latest one is kept: it is the largest part of picking among
    10,000 workers, and in half the bytes it is sooner walked through.
    """

    def __init__(self, counters: Counters | None = None) -> None:
        self._cost = 0.0
        self._counters = counters or Counters()
        self.rebuild(())

    def rebuild(self, takers: Iterable[AtWorker]) -> None:
        """Makes these workers take requests. Others must have no row."""
        self._takers = [there for there in takers if there.perf * MAX_UNIT_S >= 1.0]
        self._rows = {there.worker_id: row for row, there in enumerate(self._takers)}
        self._seeds: Uints | None = None
        self._work = np.zeros(len(self._takers))
        self._unit_s = 1.0 / np.array([there.perf for there in self._takers], dtype=np.float64)
        self._work_at, self._unit_at = _numbers(self._work), _numbers(self._unit_s)
        self._expect(self._cost)
        for row, there in enumerate(self._takers):
            there.row = row
            if there or there.held_back:
                self.note(there)

    def note(self, there: AtWorker) -> None:
        """Has requests go by what is at a worker now; nothing if it takes none."""
        row = there.row
        if row >= 0:
            self._work_at[row] = work = there.held_back + work_ahead(there.work, len(there), there.slots)
            self._end_at[row] = (work + self._cost) * self._unit_at[row]

    def free(self, max_queue_s: float) -> bool:
        """Whether any worker is not too busy."""
        return bool(self._takers) and bool((self._work * self._unit_s).min() <= max_queue_s)

    def _expect(self, cost: float) -> None:
        self._cost, self._ends_s = cost, end_s(self._work, self._unit_s, cost).astype(np.float32)
        self._end_at, self._first = _numbers(self._ends_s), self._ends_s.argmin

    def pick(
        self,
        cost: float,
        max_queue_s: float,
        tie_break: int,
        avoid: Collection[WorkerId] = (),
        penalties_s: Mapping[WorkerId, float] | None = None,
        wish: Wish | None = None,
    ) -> AtWorker | None:
        """The worker that `policy.route.pick` picks, none of `avoid`; None if every one is too busy."""
        if not self._takers:
            return None
        if cost != self._cost:
            self._expect(cost)
        extra_s: Floats | None = None
        if avoid or penalties_s or wish is not None:
            extra_s = np.zeros_like(self._work)
            if penalties_s:
                for worker_id, penalty_s in penalties_s.items():
                    if (row := self._rows.get(worker_id)) is not None:
                        extra_s[row] = penalty_s
                extra_s = beyond_median(extra_s)
            extra_s[[at for at in map(self._rows.get, avoid) if at is not None]] = np.inf
            if wish is not None:
                return self._wished(wish, cost, max_queue_s, tie_break, extra_s)
        elif cost > 0.0:
            first = int(self._first())
            if self._end_at[first] <= max_queue_s < math.inf:  # and so is its wait, which is shorter
                return self._takers[first]
        row = pick(self._work, self._unit_s, cost, max_queue_s, tie_break, extra_s, self._ends_s)
        return None if row is None else self._takers[row]

    def _wished(self, wish: Wish, cost: float, max_queue_s: float, tie_break: int, extra_s: Floats) -> AtWorker | None:
        if wish.only is not None:
            max_queue_s = max_queue_s if cost > 0.0 else math.inf  # what is no work, and can go nowhere else
            extra_s[[row for worker_id, row in self._rows.items() if worker_id not in wish.only]] = np.inf
        ends_s, best = self._ends_s, None
        if wish.key:
            if self._seeds is None:
                self._seeds = seeds(np.array(list(self._rows), dtype=np.uint64))
            best = favourite(wish.key, self._seeds, np.where(np.isinf(extra_s), np.inf, self._unit_s))
            ends_s = ends_s.copy()
            ends_s[best] -= WARM_SHARE * cost * self._unit_s[best]
        row = pick(self._work, self._unit_s, cost, max_queue_s, tie_break, extra_s, ends_s)
        if best is not None and row is not None:
            self._counters.keyed += 1
            self._counters.kept += row == best
        return None if row is None else self._takers[row]


def _numbers(array: NDArray[Any]) -> "memoryview[float]":
    """Its memory: one number of it is read and written in a third of numpy's time."""
    return cast("memoryview[float]", array.data)
