"""How long to wait before trying again what failed. Units: seconds."""

from posthouse.domain.plan import Failures

FIRST_WAIT_S = 5.0
"""After the first failure of a workergroup; doubles with each one in a row."""
MAX_WAIT_S = 600.0
SAME_FAULT_MACHINES, SAME_FAULT_WAIT_S = 3, 3600.0
"""Where new workers failed on so many machines and none came to be ready, it is not the machines: what they run is
frozen, but for one try an hour, for the fault may be one of the network that passes."""
FIRST_MACHINE_WAIT_S = 60.0
"""After the first failure on a machine; such a machine is taken last, not never: it may be the only one."""
MAX_MACHINE_WAIT_S = 86_400.0


def resume_at(failures: Failures | None, first_s: float = FIRST_WAIT_S, longest_s: float = MAX_WAIT_S) -> float:
    """When the next attempt may be made; 0 if nothing failed."""
    if failures is None or failures.count == 0:
        return 0.0
    return failures.last_at + min(longest_s, first_s * 2.0 ** min(failures.count - 1, 30))


def group_resume_at(failures: Failures) -> float:
    """When the next attempt of a workergroup may be made."""
    return resume_at(failures, longest_s=SAME_FAULT_WAIT_S if same_fault(failures) else MAX_WAIT_S)


def same_fault(failures: Failures) -> bool:
    """Whether it is what the workers run that fails, and not the machines."""
    return len(failures.machines) >= SAME_FAULT_MACHINES


def machine_resume_at(failures: Failures | None) -> float:
    """When a machine is trusted again like any other."""
    return resume_at(failures, FIRST_MACHINE_WAIT_S, MAX_MACHINE_WAIT_S)
