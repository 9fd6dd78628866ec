"""A decision in the making, handed down the stages: each reads what those before it have settled."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from posthouse.domain.decision import Cap, Reason, Rental, Snapshot
from posthouse.domain.lifecycle import COMING, Goal, State
from posthouse.domain.worker import Worker, WorkerId
from posthouse.policy import capacity
from posthouse.policy.tuning import Tuning

RUNS_ON = COMING - {State.STARTING}
"""States in which a worker that is to rest runs until it has been ready once."""


def will_run(worker: Worker) -> bool:
    """True if the worker runs where its goal takes it."""
    return worker.goal in (Goal.HOT, Goal.UPDATED) or (worker.goal is Goal.COLD and worker.state in RUNS_ON)


def committed_usd_h(worker: Worker) -> float:
    """What the worker may come to cost per hour: the higher of its present cost and of that where its goal takes it."""
    return max(worker.usd_h(), worker.price.running_usd_h if will_run(worker) else 0.0)


def staying_usd_h(worker: Worker) -> float:
    """The same; nothing of what is being stopped or destroyed."""
    return 0.0 if worker.state in (State.STOPPING, State.DESTROYING) else committed_usd_h(worker)


@dataclass(slots=True)
class Draft:
    """The workers with the goals that they will have, what is rented, and the money and room that are left."""

    s: Snapshot
    tuning: Tuning
    workers: dict[WorkerId, Worker]
    rentals: list[Rental]
    because: list[Reason]
    committed_usd_h: float
    """What workers and rentals may come to cost per hour."""
    cap: Cap | None = None
    """The most that they may."""
    aside: dict[WorkerId, Worker] = field(default_factory=dict)
    """Canaries beside workers that serve: they count as workers, and not as capacity."""
    rented_perf: float = 0.0
    """What the rentals are expected to do together, in work per second."""
    ended: frozenset[WorkerId] = frozenset()
    """Those whose drain ends now."""

    @classmethod
    def of(cls, s: Snapshot, tuning: Tuning) -> "Draft":
        """The present, unchanged."""
        own, because = s.endpoint.scaling.max_usd_h, [] if s.cap is None else [Reason("cap", s.cap.usd_h, s.cap.text)]
        caps = [cap for cap in (None if own is None else Cap(own, f"max_usd_h {own:g}"), s.cap) if cap is not None]
        cap = min(caps, key=lambda cap: cap.usd_h, default=None)
        committed = sum(map(committed_usd_h, s.workers))
        return cls(s, tuning, {w.id: w for w in s.workers}, [], because, committed, cap)

    @property
    def budget(self) -> int:
        """How many workers may still be added. Every worker counts that may exist, whatever its state."""
        there = len(self.workers) + len(self.aside) + len(self.rentals)
        return max(0, self.s.endpoint.scaling.max_workers - there)

    def set(self, worker: Worker, goal: Goal) -> None:
        changed = self.workers[worker.id] = replace(worker, goal=goal)
        self.committed_usd_h += committed_usd_h(changed) - committed_usd_h(worker)

    def add(self, rental: Rental, perf: float) -> None:
        """Rents a worker that is expected to do `perf`."""
        self.rentals.append(rental)
        self.committed_usd_h += rental.offer.offer.price.running_usd_h
        self.rented_perf += perf

    def affords(self, extra_usd_h: float) -> bool:
        """True if so much more per hour keeps the endpoint under its cap."""
        return self.cap is None or self.committed_usd_h + extra_usd_h <= self.cap.usd_h * (1 + 1e-9)

    def affords_running(self, worker: Worker) -> bool:
        return self.affords(max(0.0, worker.price.running_usd_h - committed_usd_h(worker)))

    def over_cap(self) -> str:
        return f"{'' if self.cap is None else self.cap.name} would be exceeded"

    def all(self) -> Iterable[Worker]:
        return self.workers.values()

    def supply(self, workers: Iterable[Worker]) -> float:
        """What the workers can do together, in work per second."""
        return capacity.supply(workers, self.s.estimates)

    def perf(self, worker: Worker) -> float:
        return capacity.perf_of(worker, self.s.estimates)

    def unit_usd_h(self, worker: Worker) -> float:
        """What the worker costs per hour for each unit of work a second."""
        return worker.price.running_usd_h / self.perf(worker)

    def changes(self) -> dict[WorkerId, Goal]:
        goals = {worker.id: worker.goal for worker in (*self.all(), *self.aside.values())}
        return {w.id: goals[w.id] for w in self.s.workers if goals[w.id] is not w.goal}
