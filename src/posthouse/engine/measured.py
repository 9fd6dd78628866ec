"""What one endpoint's requests waited, its workers' starts took, and its decisions were for."""

from collections import Counter, defaultdict
from collections.abc import Collection
from typing import Final

from posthouse.domain.decision import Decision, Obstacle
from posthouse.domain.lifecycle import COMING, UPDATING, Goal, State
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine.worker_stats import WorkerStats
from posthouse.fleet.controller import Controller
from posthouse.fleet.ledger import Ledger
from posthouse.measures import LONG_S, Histogram
from posthouse.recording.log import Slice, TrafficLog

VERBS: Final = {Goal.HOT: "wake", Goal.COLD: "rest", Goal.GONE: "destroy", Goal.UPDATED: "update"}
CAUSES: Final = {"endpoint state": "state", "cost per hour": "cap", "to be replaced": "exchange"}
"""What may be the cause of a decision whatever the need is, and the word for it."""


class Measured:
    """Counts since this server has the endpoint."""

    def __init__(self) -> None:
        self.waits = Histogram(LONG_S)
        """Of requests that were given their first worker later than they came."""
        self.given_up = 0
        """Requests that never had a worker."""
        self.first_worker = Histogram(LONG_S)
        """From the first request that found no worker ready to a worker that is."""
        self.phases: defaultdict[State, Histogram] = defaultdict(lambda: Histogram(LONG_S))
        """By state on the way to be ready."""
        self.starts: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(LONG_S))
        """Whole starts: of `new` workers, and of `cold` ones."""
        self.failed_starts = 0
        self.decisions: Counter[tuple[str, str]] = Counter()
        """Those that change something, by what is done and why."""
        self.obstacles: Counter[str] = Counter()
        """What stood in the way of those, and of the others that were written down."""
        self._none_since: float | None = None

    def found_none(self, fleet: Controller, now: float) -> None:
        """A request found no free worker."""
        if self._none_since is None or len(fleet.ledger) <= 1:
            ready = any(worker.state is State.IDLE for worker in fleet.workers.values())
            self._none_since = None if ready else now

    def moved(self, fleet: Controller, before: Worker, after: Worker, now: float) -> None:
        """A worker changed its state."""
        if before.state not in COMING:
            return
        if after.state is State.IDLE and self._none_since is not None:
            if len(fleet.ledger):  # else those who asked have left
                self.first_worker.add(now - self._none_since)
            self._none_since = None
        if before.state in UPDATING:
            return
        if after.state is State.IDLE or after.state in COMING:
            self.phases[before.state].add(now - before.since)
            if after.state is State.IDLE and before.state is State.STARTING:
                self.starts["cold"].add(now - before.since)
            elif after.state is State.IDLE and not before.loaded_at:
                self.starts["new"].add(now - before.created_at)
        elif after.state in (State.ERROR, State.UNAVAIL):
            self.failed_starts += 1

    def decided(self, decision: Decision) -> None:
        """A decision was written down."""
        self.obstacles.update({reason.what for reason in decision.because if isinstance(reason, Obstacle)})
        for verb in {VERBS[goal] for goal in decision.goals.values()} | ({"rent"} if decision.rentals else set()):
            self.decisions[verb, _cause(decision, verb)] += 1


class Log(TrafficLog):
    """A traffic log that also keeps the statistics of workers, and counts what requests waited."""

    def __init__(self, now: float, workers: int = 0) -> None:
        super().__init__(now, workers)
        self.stats: dict[WorkerId, WorkerStats] = {}
        self.measured = Measured()
        self._asked_before = 0

    def waits(self, ledger: Ledger) -> Histogram:
        """How long requests waited for their first worker, also those that did not."""
        found, measured = Histogram(LONG_S), self.measured
        unserved = sum(request.unserved for request in ledger.open.values())
        found.counts, found.sum = measured.waits.counts[:], measured.waits.sum
        found.counts[0] += max(0, self.asked_in_all - measured.waits.count - measured.given_up - unserved)
        return found

    @property
    def asked_in_all(self) -> int:
        """Requests since it began, however often it was drained."""
        return self._asked_before + self.counted()[1]

    def drain(self, now: float, workers: Collection[Worker]) -> Slice:
        self._asked_before = self.asked_in_all
        return super().drain(now, workers)

    def waited(self, wait_s: float, work: float) -> None:
        super().waited(wait_s, work)
        self.measured.waits.add(wait_s)

    def gave_up(self, work: float) -> None:
        super().gave_up(work)
        self.measured.given_up += 1

    def left(self, worker_id: WorkerId, work: float, took_s: float, now: float) -> None:
        stats = self.stats.get(worker_id)
        if stats is not None:
            stats.ended(work, took_s, now)


def _cause(decision: Decision, verb: str) -> str:
    named = {reason.what: reason.value for reason in decision.because}
    if verb == "update":
        return "update"
    for what, word in CAUSES.items():
        if what in named:
            return word
    if verb not in ("wake", "rent"):
        return "surplus"
    load, backlog = (_number(named.get(what)) for what in ("need for load", "need for backlog"))
    return "backlog" if backlog > load else "load" if load > 0 else "minimum"


def _number(value: float | str | None) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
