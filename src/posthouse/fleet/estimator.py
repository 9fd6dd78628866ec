"""What is learned from an endpoint's workers about the machines they run on."""

import math
from collections import deque
from statistics import median

from posthouse.domain.decision import Failures
from posthouse.domain.endpoint import WorkergroupId
from posthouse.domain.estimates import Estimates
from posthouse.domain.lifecycle import UPDATING, State
from posthouse.domain.worker import Worker, WorkerId
from posthouse.fleet.latest import Latest
from posthouse.policy.capacity import kind_of
from posthouse.policy.faults import same_fault
from posthouse.policy.tuning import TUNING

MAX_MACHINES = 200
"""Of how many latest machines it is remembered that they failed."""


class Estimator:
    """What is learned of kinds of machine, and of single ones."""

    def __init__(self) -> None:
        self.failures: Latest[str, Failures] = Latest(MAX_MACHINES)
        """By machine: since a worker last came to be ready there."""
        self.group_failures: dict[WorkergroupId, Failures] = {}
        """By workergroup: since a worker of it last came to be ready."""
        self.held: Latest[str, tuple[float, float]] = Latest(MAX_MACHINES)
        """How many failures are held against each machine, as of when."""
        self.loaded_on: Latest[tuple[WorkergroupId, str], None] = Latest(MAX_MACHINES)
        self._create_s_of: dict[str, deque[float]] = {}
        self._kinds: dict[str, Latest[WorkerId, tuple[float, float]]] = {}  # performance and $/h
        self._loads: dict[str, deque[tuple[float, bool]]] = {}
        self.start_s: deque[float] = deque(maxlen=TUNING.samples)
        self.create_s: deque[float] = deque(maxlen=TUNING.samples)

    def restore(self, worker: Worker) -> None:
        """Learns from a worker of before a restart; call it in the order in which they were made."""
        if worker.perf > 0:
            self.measured(worker)
        if worker.loaded_at:
            self.failures.pop(worker.machine, None)
            self.loaded_on[worker.group_id, worker.machine] = None
            self._created(worker, worker.loaded_at)
        if worker.failed_at:
            self.failed(worker, worker.failed_at)

    def measured(self, worker: Worker) -> None:
        """A worker has measured its performance: that tells of its kind."""
        known = self._kinds.setdefault(kind_of(worker.group_id, worker), Latest(TUNING.samples))
        known[worker.id] = worker.perf, worker.price.running_usd_h

    def perf(self) -> dict[str, float]:
        """Work per second by kind of machine."""
        return {kind: median(perf for perf, _ in known.values()) for kind, known in self._kinds.items()}

    def arrived(self, before: Worker, worker: Worker, now: float) -> float | None:
        """A worker came to be ready: how long that took; None if it was only away for a moment."""
        if not worker.outdated_at:  # one from an older template says nothing of what the present one makes
            self.group_failures.pop(worker.group_id, None)
        self.failures.pop(worker.machine, None)
        self.loaded_on[worker.group_id, worker.machine] = None
        took_s = now - before.since
        if before.state is State.STARTING:
            self.start_s.append(took_s)
        elif before.state not in UPDATING:
            return None if before.loaded_at > 0 else self._created(worker, now)
        return took_s

    def failed(self, worker: Worker, now: float) -> None:
        """A worker failed: that is held against its machine, and against its kind if it never came to be ready."""
        count = self.failures.get(worker.machine, Failures()).count
        self.failures[worker.machine] = Failures(count + 1, now)
        self.held[worker.machine] = self.held_against(worker.machine, now) + 1, now
        if worker.loaded_at == 0:
            self._loaded(worker, now, success=False)

    def blame(self, worker: Worker, now: float, machine: str = "") -> bool:
        """Holds a failure against a worker's workergroup and machine; True if that is now known to fail everywhere.

        `machine`: where what the workergroup makes did not come to be ready, if it was tried.
        """
        group = self.group_failures.get(worker.group_id, Failures())
        known = not machine or machine in group.machines or same_fault(group)
        machines = group.machines if known else (*group.machines, machine)
        # What began before the last failure is of the same try: where many are made at once, some fail.
        again = not group.count or worker.began_at > group.last_at
        failures = Failures(group.count + again, now if again else group.last_at, machines)
        self.group_failures[worker.group_id] = failures
        self.failed(worker, now)
        return same_fault(failures) and not same_fault(group)

    def create_s_for(self, worker: Worker) -> deque[float]:
        """How long the latest of its kind took to be ready; of any kind, where none of it was."""
        return self._create_s_of.get(kind_of(worker.group_id, worker)) or self.create_s

    def estimates(self, now: float) -> Estimates:
        """All of it, for a decision."""
        nothing = Estimates()
        per_usd = {kind: [p / usd_h for p, usd_h in known.values() if usd_h > 0] for kind, known in self._kinds.items()}
        return Estimates(
            perf=self.perf(),
            work_per_usd={kind: median(values) for kind, values in per_usd.items() if values},
            success_rate=self._success_rate(now),
            create_s_of={kind: median(times) for kind, times in self._create_s_of.items()},
            start_s=median(self.start_s or [nothing.start_s]),
            create_s=median(self.create_s or [nothing.create_s]),
        )

    def held_against(self, machine: str, now: float) -> float:
        """What is still held against a machine, however well it did since: half of it each `long_backoff_s`."""
        count, at = self.held.get(machine, (0.0, now))
        return count * math.exp2((at - now) / TUNING.long_backoff_s)

    def _created(self, worker: Worker, now: float) -> float:
        if (took_s := now - worker.created_at) > 0:  # one that was there from the start took none
            self.create_s.append(took_s)
            self._create_s_of.setdefault(kind_of(worker.group_id, worker), deque(maxlen=TUNING.samples)).append(took_s)
        self._loaded(worker, now, success=True)
        return took_s

    def _loaded(self, worker: Worker, now: float, success: bool) -> None:
        self._loads.setdefault(kind_of(worker.group_id, worker), deque(maxlen=TUNING.samples)).append((now, success))

    def _success_rate(self, now: float) -> dict[str, float]:
        """Share of new workers that come to be ready, by kind, where one did not of late.

        One failure tells as much as one success, and nothing is held against what was never tried.
        Source: the rule of succession, with a success for prior.
        """
        late = {i: [ok for at, ok in loads if now - at < TUNING.long_backoff_s] for i, loads in self._loads.items()}
        return {kind: (sum(loads) + 1) / (len(loads) + 1) for kind, loads in late.items() if not all(loads)}
