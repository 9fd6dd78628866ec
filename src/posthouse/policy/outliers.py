"""Outlier ejection: a worker at which requests fail is passed over for a while, as in Envoy's outlier detection.

A penalty is seconds that count as waiting at the worker: a dead worker looks idle, and would draw every request to it.
"""

import numpy as np
from numpy.typing import NDArray

from posthouse.domain.decision import Failures
from posthouse.policy.tuning import TUNING, Tuning

Floats = NDArray[np.float64]


def penalty_s(failures: Failures, reported_at: float, now: float, tuning: Tuning = TUNING) -> float:
    """Seconds added to a worker's expected wait, for the failures there that no success has taken back.

    They double with each failure, 5, 10, 20, 40 and at most 60, and count down once the worker has reported after the
    last one: a report says that it lives, not that clients can reach it.
    """
    full_s = min(tuning.max_penalty_s, tuning.penalty_s * 2.0 ** min(failures.count - 1, tuning.max_failures))
    passed_s = now - failures.last_at if reported_at > failures.last_at else 0.0
    return max(0.0, full_s - passed_s)


def beyond_median(penalties_s: Floats) -> Floats:
    """What each penalty is above the (lower) median of all workers, 0 for the others.

    So at most half of the workers are ever ejected, and where all are suspected alike, all are used.
    """
    middle = (penalties_s.size - 1) // 2
    beyond: Floats = np.maximum(penalties_s - np.partition(penalties_s, middle)[middle], 0.0)
    return beyond
