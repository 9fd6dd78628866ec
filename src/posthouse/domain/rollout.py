"""An update of a workergroup: from the version that is known to work to the one that its template says now."""

from dataclasses import dataclass
from enum import StrEnum

from posthouse.domain.endpoint import WorkergroupId
from posthouse.domain.worker import Worker


class Phase(StrEnum):
    CANARY = "canary"  # one worker runs the new version, and is compared with the others
    ROLLING = "rolling"  # the others follow
    DONE = "done"
    ROLLED_BACK = "rolled back"  # the new version is at fault: workers of it run the old one again
    CANCELLED = "cancelled"  # by a person: workers stay as they are


@dataclass(frozen=True, slots=True)
class Rollout:
    """Which versions the workers of a workergroup run. A version is named by a digest of what a worker runs."""

    group_id: WorkergroupId
    stable: str = ""
    """What is known to work; empty while nothing is."""
    target: str = ""
    """What the template says."""
    phase: Phase = Phase.DONE
    since: float = 0.0
    """When the phase began; 0 if there was no update yet."""
    reason: str = ""
    """Why it is over, or what the latest worker of the new version that failed said."""
    canary: int = 0
    """The worker that goes first, by id; 0 while there is none."""
    failed: int = 0
    """Workers of the new version that failed since one of it was last ready."""
    failed_at: float = 0.0

    @property
    def under_way(self) -> bool:
        """True while workers are to be brought to the new version."""
        return self.phase in (Phase.CANARY, Phase.ROLLING)

    @property
    def guarded(self) -> bool:
        """True while it may be rolled back: there is something that is known to work."""
        return self.under_way and bool(self.stable)

    @property
    def wanted(self) -> str:
        """What new workers run, but for a canary."""
        return self.target if self.phase is Phase.ROLLING or not self.stable else self.stable

    @property
    def next(self) -> str:
        """What a worker runs once it was updated."""
        return self.target if self.under_way else self.wanted

    def is_new(self, worker: Worker) -> bool:
        """True if the worker runs the new version as a part of this update."""
        if worker.outdated_at or worker.build != self.target:
            return False
        return self.phase is not Phase.CANARY or worker.id == self.canary

    def canary_is(self, worker: Worker) -> bool:
        """True if the worker goes first, and runs the new version already."""
        return self.phase is Phase.CANARY and self.is_new(worker)
