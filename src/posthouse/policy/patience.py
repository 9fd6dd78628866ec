"""How long to wait before trying again what failed. Units: seconds."""

from posthouse.domain.plan import Failures

FIRST_WAIT_S = 5.0
"""After the first failure of a workergroup; doubles with each one in a row."""
LONGEST_WAIT_S = 600.0
FIRST_MACHINE_WAIT_S = 60.0
"""After the first failure on a machine; such a machine is taken last, not never: it may be the only one."""
LONGEST_MACHINE_WAIT_S = 86_400.0


def resume_at(failures: Failures | None, first_s: float = FIRST_WAIT_S, longest_s: float = LONGEST_WAIT_S) -> float:
    """When the next attempt may be made; 0 if nothing failed."""
    if failures is None or failures.count == 0:
        return 0.0
    return failures.last_at + min(longest_s, first_s * 2.0 ** min(failures.count - 1, 30))


def machine_resume_at(failures: Failures | None) -> float:
    """When a machine is trusted again like any other."""
    return resume_at(failures, FIRST_MACHINE_WAIT_S, LONGEST_MACHINE_WAIT_S)
