"""How long to wait before trying again what failed. Units: seconds."""

from posthouse.domain.decision import Failures
from posthouse.policy.tuning import TUNING, Tuning


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
