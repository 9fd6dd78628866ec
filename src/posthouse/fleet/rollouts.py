"""The updates of one endpoint's workergroups: which workers are due, and how each version has done so far."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from posthouse.domain.decision import Rental
from posthouse.domain.endpoint import WorkergroupId
from posthouse.domain.lifecycle import UPDATING, Goal, goal_beyond_update
from posthouse.domain.rollout import Phase, Rollout
from posthouse.domain.worker import Worker, WorkerId
from posthouse.fleet.estimator import Estimator
from posthouse.fleet.events import Level, Outbox
from posthouse.policy.trial import TRIES, Trial, can_be_updated, judged


class Rollouts(dict[WorkergroupId, Rollout]):
    """One for each workergroup of the endpoint."""

    def __init__(
        self,
        kept: Iterable[Rollout],
        workers: Mapping[WorkerId, Worker],
        change: Callable[..., object],
        estimator: Estimator,
        outbox: Outbox,
    ) -> None:
        """`change`: changes a worker."""
        super().__init__({rollout.group_id: rollout for rollout in kept})
        self.unsaved = False
        self._workers, self._change, self._estimator, self._outbox = workers, change, estimator, outbox
        self._trials: dict[WorkergroupId, Trial] = {}

    def __missing__(self, group_id: WorkergroupId) -> Rollout:
        return Rollout(group_id)

    def of(self, worker: Worker) -> Rollout:
        return self[worker.group_id]

    def put(self, rollout: Rollout) -> None:
        self.unsaved |= self.get(rollout.group_id) != rollout
        self[rollout.group_id] = rollout

    def take(self) -> tuple[Rollout, ...]:
        """All of them, if one changed since they were last taken; else none."""
        taken, self.unsaved = tuple(self.values()) if self.unsaved else (), False
        return taken

    def configured(self, builds: tuple[tuple[WorkergroupId, str], ...], now: float) -> None:
        """Handles the present version of each template; a changed one begins an update."""
        self._estimator.group_failures = {g: f for g, f in self._estimator.group_failures.items() if g in dict(builds)}
        for group_id, build in builds:
            if (rollout := self.get(group_id)) is None:  # what workers of an earlier release run is unwritten: this
                there = self._of_group(group_id)
                for worker in there:
                    self._change(worker, build=worker.build or build)
                stable = build if any(w.loaded_at and not w.outdated_at for w in there) else ""
                phase = Phase.ROLLING if any(w.outdated_at for w in there) else Phase.DONE
                self.put(Rollout(group_id, stable, build, phase))
            elif build != rollout.target:
                self._begin(group_id, build, now)

    def asked(self, group_id: WorkergroupId, wanted: bool, now: float) -> None:
        if wanted:
            self._begin(group_id, self[group_id].target, now, everyone=True)
        elif self[group_id].under_way:
            self._cancel(group_id, now)

    def _begin(self, group_id: WorkergroupId, target: str, now: float, everyone: bool = False) -> None:
        """Begins an update; `everyone`: also of workers that run its version already."""
        stable = self[group_id].stable
        phase = Phase.CANARY if stable and (everyone or stable != target) else Phase.ROLLING
        self.put(Rollout(group_id, stable, target, phase, now))
        self._trials[group_id] = Trial(now, self._estimator.perf())
        self._estimator.group_failures.pop(group_id, None)  # what comes now may be the cure
        count = self._mark(group_id, target, now, everyone)
        self._outbox.say(Level.INFO1, f"workergroup {group_id}: an update begins: {phase}; workers: {count}")

    def _cancel(self, group_id: WorkergroupId, now: float) -> None:
        """Leaves those as they are whose update has not begun."""
        rollout = self[group_id]
        stable = rollout.wanted if rollout.stable else ""
        self.put(Rollout(group_id, stable, rollout.target, Phase.CANCELLED, now, "a person cancelled it"))
        self._trials.pop(group_id, None)
        for worker in self._of_group(group_id):
            goal = goal_beyond_update(worker.state) if worker.goal is Goal.UPDATED else worker.goal
            self._change(worker, outdated_at=0.0, goal=goal)
        self._outbox.say(Level.INFO1, f"workergroup {group_id}: is not updated any further")

    def advance(self, now: float, canary_s: float) -> bool:
        """Judges what is under way; True if that changed anything."""
        changed = False
        for group_id, rollout in list(self.items()):
            if not rollout.under_way:
                continue
            trial = self._trials.setdefault(group_id, Trial(now, self._estimator.perf()))
            there = self._of_group(group_id)
            after = judged(rollout, there, trial, now, canary_s)
            if after.phase is rollout.phase:
                continue
            changed = True
            self.put(after)
            if not after.under_way:
                del self._trials[group_id]
            if after.phase is Phase.ROLLED_BACK:
                self._mark(group_id, after.stable, now)
            elif after.phase is Phase.ROLLING:
                for worker in there:  # also those that were made meanwhile
                    if can_be_updated(worker) and worker.build != after.target and not worker.outdated_at:
                        self._change(worker, outdated_at=now)
            level = Level.INFO0 if after.phase is Phase.ROLLED_BACK else Level.INFO1
            self._outbox.say(level, f"workergroup {group_id}: update: {after.phase}; {after.reason}".rstrip("; "))
        return changed

    # -- what becomes of workers ---------------------------------------------------------------------------------------

    def goes_first(self, group_id: WorkergroupId, worker_id: WorkerId) -> None:
        """Notes whose turn to be updated it is: where a canary is due, that is it."""
        if self[group_id].phase is Phase.CANARY:
            self.put(replace(self[group_id], canary=int(worker_id)))

    def build_for(self, rental: Rental, worker_id: WorkerId) -> str:
        """What a worker that is rented is to run."""
        rollout = self[rental.offer.group_id]
        if rental.canary:
            self.goes_first(rollout.group_id, worker_id)
        return rollout.target if rental.canary else rollout.wanted

    def failed(self, worker: Worker, why: str, now: float, died: bool = False) -> bool:
        """True if a worker's failure is one of the new version alone. `died`: at work, not on its way to be ready."""
        rollout = self.of(worker)
        other = rollout.phase is Phase.CANARY and worker.id != rollout.canary
        if other or not rollout.guarded or worker.build != rollout.target:
            return False
        if died or not rollout.failed or worker.began_at > rollout.failed_at:  # else it is of the same try
            count = TRIES if died and rollout.phase is Phase.CANARY else 1
            self.put(replace(rollout, failed=rollout.failed + count, failed_at=now, reason=why))
        return True

    def arrived(self, worker: Worker) -> None:
        """A worker came to be ready."""
        rollout = self.of(worker)
        if worker.build != rollout.target or worker.outdated_at:
            return
        if rollout.under_way:
            self.put(replace(rollout, failed=0))
        elif not rollout.stable:
            self.put(replace(rollout, stable=rollout.target))

    def ended(self, worker_id: WorkerId, failed: bool) -> None:
        """A request ended at a worker."""
        worker = self._workers.get(worker_id) if self._trials else None
        if worker is None or (trial := self._trials.get(worker.group_id)) is None:
            return
        is_new = self.of(worker).is_new(worker)
        trial.ended[is_new] += 1
        trial.failed[is_new] += failed

    # -- inside --------------------------------------------------------------------------------------------------------

    def _of_group(self, group_id: WorkergroupId) -> list[Worker]:
        return [w for w in self._workers.values() if w.group_id == group_id]

    def _mark(self, group_id: WorkergroupId, build: str, now: float, everyone: bool = False) -> int:
        """Marks those that do not surely run a version; how many. Who is in turn may run either, after a crash."""
        count = 0
        for worker in [w for w in self._of_group(group_id) if can_be_updated(w)]:
            due = everyone or worker.build != build or worker.goal is Goal.UPDATED or worker.state in UPDATING
            self._change(worker, outdated_at=now if due else 0.0)
            count += due
        return count
