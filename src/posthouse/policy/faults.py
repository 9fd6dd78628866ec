"""What failures cost: how long to wait before trying again, and how much a worker at which requests fail is avoided."""

import numpy as np
from numpy.typing import NDArray

from posthouse.domain.decision import Failures
from posthouse.policy.tuning import TUNING, Tuning

Floats = NDArray[np.float64]


def resume_at(failures: Failures | None, first_s: float, max_s: float) -> float:
    """When the next attempt may be made: `first_s` after a first failure, doubling up to `max_s`; 0 if none failed."""
    if failures is None or failures.count == 0:
        return 0.0
    return failures.last_at + min(max_s, first_s * 2.0 ** min(failures.count - 1, 30))


def group_resume_at(failures: Failures | None, tuning: Tuning = TUNING) -> float:
    """When the next worker of a workergroup may be tried."""
    longest_s = tuning.long_backoff_s if same_fault(failures, tuning) else tuning.max_backoff_s
    return resume_at(failures, tuning.backoff_s, longest_s)


def same_fault(failures: Failures | None, tuning: Tuning = TUNING) -> bool:
    """Whether it is what the workers run that fails, and not the machines."""
    return failures is not None and len(failures.machines) >= tuning.same_fault_machines


def machine_resume_at(failures: Failures | None, tuning: Tuning = TUNING) -> float:
    """When a machine is trusted like any other. Until then it is taken last, not never: it may be the only one."""
    return resume_at(failures, tuning.machine_backoff_s, tuning.long_backoff_s)


def penalty_s(failures: Failures, reported_at: float, now: float, tuning: Tuning = TUNING) -> float:
    """Seconds added to a worker's expected wait: a dead worker looks idle, and would draw every request to it.

    They double with each failure, 5, 10, 20, 40 and at most 60, and count down once the worker has reported after the
    last one: a report says that it lives, not that clients can reach it. Source: Envoy's outlier detection.
    """
    full_s = min(tuning.max_penalty_s, tuning.penalty_s * 2.0 ** min(failures.count - 1, tuning.max_failures))
    passed_s = now - failures.last_at if reported_at > failures.last_at else 0.0
    return max(0.0, full_s - passed_s)


def beyond_median(penalties_s: Floats) -> Floats:
    """What each penalty is above the (lower) median of all workers: so at most half of them are ever ejected."""
    middle = (penalties_s.size - 1) // 2
    beyond: Floats = np.maximum(penalties_s - np.partition(penalties_s, middle)[middle], 0.0)
    return beyond
