"""A decision in the making, handed down the stages: each reads what those before it have settled."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from posthouse.domain.decision import Reason, Rental, Snapshot
from posthouse.domain.lifecycle import Goal
from posthouse.domain.worker import Worker, WorkerId
from posthouse.policy import bounds, capacity
from posthouse.policy.bounds import committed_usd_h, running_usd_h
from posthouse.policy.tuning import Tuning


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
    budget: int
    """How many workers may still be added."""

    @classmethod
    def of(cls, s: Snapshot, tuning: Tuning) -> "Draft":
        """The present, unchanged."""
        committed = sum(map(committed_usd_h, s.workers))
        budget = bounds.budget(s.endpoint.scaling, s.workers)
        return cls(s, tuning, {w.id: w for w in s.workers}, [], [], committed, budget)

    def set(self, worker: Worker, goal: Goal) -> None:
        """Gives a worker a goal."""
        changed = self.workers[worker.id] = replace(worker, goal=goal)
        self.committed_usd_h += committed_usd_h(changed) - committed_usd_h(worker)

    def add(self, rental: Rental) -> None:
        """Rents a worker."""
        self.rentals.append(rental)
        self.committed_usd_h += running_usd_h(rental.offer.offer.price)
        self.budget -= 1

    def affords(self, extra_usd_h: float) -> bool:
        """True if so much more per hour keeps the endpoint under its `max_usd_h`."""
        cap = self.s.endpoint.scaling.max_usd_h
        return cap is None or self.committed_usd_h + extra_usd_h <= cap * (1 + 1e-9)

    def affords_running(self, worker: Worker) -> bool:
        """True if the worker may run."""
        return self.affords(max(0.0, running_usd_h(worker.price) - committed_usd_h(worker)))

    def all(self) -> Iterable[Worker]:
        """Every worker."""
        return self.workers.values()

    def hot(self) -> list[Worker]:
        """Workers that serve or will."""
        return capacity.hot(self.all())

    def ready(self) -> list[Worker]:
        """Workers that take requests now."""
        return capacity.ready(self.all())

    def kept(self) -> list[Worker]:
        """Workers hot or cold that we mean to keep."""
        return capacity.kept(self.all())

    def supply(self, workers: Iterable[Worker]) -> float:
        """What the workers can do together, in work per second."""
        return capacity.supply(workers, self.s.estimates)

    def perf(self, worker: Worker) -> float:
        """What the worker can do."""
        return capacity.perf_of(worker, self.s.estimates)

    def changes(self) -> dict[WorkerId, Goal]:
        """The goals that are not what they were."""
        return {w.id: self.workers[w.id].goal for w in self.s.workers if self.workers[w.id].goal is not w.goal}
