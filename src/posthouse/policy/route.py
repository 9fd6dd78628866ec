"""Which worker gets a request."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pick(work: Floats, perf: Floats, cost: float, max_queue_s: float, die: int) -> int | None:
    """The row of the worker that would finish the request soonest, or None where every wait is above `max_queue_s`.

    Expected wait = outstanding work / performance; expected end = (outstanding work + cost) / performance. A row with
    performance 0 takes nothing. Equal rows are told apart by `die`, any number that differs between requests.
    Shape: `work` and `perf` have one entry a worker. Units: work, work per second, seconds.
    """
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        end_s = np.where((perf > 0) & (work <= max_queue_s * perf), (work + cost) / perf, np.inf)
    if not end_s.size:
        return None
    soonest = end_s.min()
    if soonest == np.inf:
        return None
    best = np.flatnonzero(end_s == soonest)
    return int(best[die % best.size])
