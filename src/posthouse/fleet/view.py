"""What may be asked of a controller: questions that change nothing."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from posthouse.domain.decision import Snapshot
from posthouse.domain.endpoint import Endpoint
from posthouse.domain.offer import GroupOffer
from posthouse.domain.worker import Worker, WorkerId
from posthouse.fleet.ledger import Ledger
from posthouse.fleet.requests import Requests
from posthouse.fleet.roster import Roster


class View:
    """What is known of one endpoint."""

    endpoint: Endpoint
    stabilized_at: float
    """No scale-down before this time."""
    _roster: Roster
    _requests: Requests
    _offers: tuple[GroupOffer, ...] = ()

    @property
    def workers(self) -> Mapping[WorkerId, Worker]:
        """Every worker that is not DESTROYED."""
        return MappingProxyType(self._roster.workers)

    @property
    def ledger(self) -> Ledger:
        """Every open request, for whoever checks what is true of them. Not to be changed."""
        return self._requests.ledger

    def has_room(self, cost: float, now: float) -> bool:
        """True if a new request would get a worker now."""
        return self._requests.has_room(cost, now)

    def snapshot(self, now: float, offers: tuple[GroupOffer, ...] | None = None) -> Snapshot:
        """All that a decision may look at. `offers`: None are those that were told last."""
        roster, requests = self._roster, self._requests
        return Snapshot(
            now=now,
            endpoint=self.endpoint,
            workers=tuple(roster.workers.values()),
            demand=requests.demand(now),
            offers=self._offers if offers is None else offers,
            estimates=roster.estimator.estimates(now),
            busy=frozenset(i for i in roster.workers if requests.busy(i)),
            resting=roster.resting(now),
            outliers=frozenset(requests.outliers(now)),
            group_failures=dict(roster.estimator.group_failures),
            machine_failures=dict(roster.estimator.failures),
            stabilized_at=self.stabilized_at,
        )

    def busy(self, worker_id: WorkerId) -> bool:
        """True if requests are on the worker, as far as we or it know."""
        return self._requests.busy(worker_id)

    def load_at(self, worker_id: WorkerId) -> tuple[float, int]:
        """Work and number of the requests at a worker."""
        return self._requests.load_at(worker_id)

    def requests_at(self, worker_id: WorkerId) -> list[tuple[float, float]]:
        """Of each request at a worker: its work, and when it was sent there."""
        return [(r.cost, r.assigned_at) for r in self._requests.ledger.at.get(worker_id, {}).values()]

    def outstanding(self) -> float:
        """Work given to workers and not finished."""
        return self._requests.ledger.outstanding()

    def waiting_count(self) -> int:
        """How many requests have no worker yet."""
        return len(self._requests.ledger.waiting)

    def outliers(self, now: float) -> dict[WorkerId, float]:
        """Workers at which requests failed lately, with the penalty of each in seconds."""
        return self._requests.outliers(now)

    def reported_at(self, worker_id: WorkerId) -> float:
        """When the worker last reported, or this server began; 0 if never."""
        return self._roster.reported_at(worker_id)

    def spent_usd(self) -> float:
        """Dollars spent until the latest tick or change of state, by every worker that ever was."""
        return self._roster.spent_usd()

    def statuses(self) -> str:
        """The breakdown of workers by status, as the wire tells it: `loading: 2, stopped: 1`."""
        counts = Counter(w.status() for w in self.workers.values() if w.status())
        return ", ".join(f"{status}: {n}" for status, n in sorted(counts.items())) or "no workers"
