"""Workers at which requests failed lately: outlier detection as in Envoy, with seconds in place of ejection."""

from posthouse.domain.decision import Failures
from posthouse.domain.worker import WorkerId
from posthouse.fleet.events import Level, Outbox
from posthouse.fleet.ledger import Request
from posthouse.fleet.roster import Roster
from posthouse.policy.faults import penalty_s
from posthouse.policy.tuning import TUNING


class Outliers(dict[WorkerId, Failures]):
    """What is held against each worker."""

    def __init__(self, lives: Roster, outbox: Outbox) -> None:
        super().__init__()
        self._lives, self._outbox = lives, outbox

    def blame(self, request: Request, worker_id: WorkerId, now: float, why: str) -> int:
        """Holds a request's failure against its worker, unless it is already; returns how many failures that added."""
        return 0 if worker_id in request.failures else self._count(worker_id, 1, now, f"request {request.idx} {why}")

    def take_back(self, worker_id: WorkerId, now: float) -> int:
        """Takes one failure back for a success; returns by how many there are more, so -1 or 0.

        A success is not certain: workers call it one when their model answers with an error. So it takes back only one,
        and that not for good if the request is asked for again.
        """
        return self._count(worker_id, -1, now)

    def keep_away(self, request: Request, worker_id: WorkerId, now: float, counted: int = 0) -> None:
        """Keeps a request that is asked for again from where it failed. `counted`: what its end counted already."""
        before = request.failures.get(worker_id, Failures())
        request.failures = {**request.failures, worker_id: Failures(before.count + 1, now)}
        once = 1 if before.count == 0 else 0  # one request's many tries are one failure of the worker
        self._count(worker_id, once - counted, now, f"request {request.idx} failed here: it was asked for again")

    def fade(self, now: float) -> None:
        """Forgets what counts no more."""
        for worker_id, left_s in self.penalties_s(now).items():
            if left_s == 0:
                del self[worker_id]

    def penalties_s(self, now: float) -> dict[WorkerId, float]:
        """The penalty of each worker in seconds; 0 where it has faded."""
        return {i: penalty_s(f, self._lives.reported_at(i), now) for i, f in self.items()}

    def _count(self, worker_id: WorkerId, count: int, now: float, why: str = "") -> int:
        worker = self._lives.workers.get(worker_id)
        if count == 0 or worker is None:
            return 0
        before = self.get(worker_id, Failures())
        after = min(before.count + count, TUNING.max_failures)
        if after <= 0:
            self.pop(worker_id, None)
        else:
            self[worker_id] = Failures(after, now if count > 0 else before.last_at)
        if before.count == 0 < count:
            self._outbox.say(Level.TRACE, f"{why}; others are preferred for a while", worker)
        return count
