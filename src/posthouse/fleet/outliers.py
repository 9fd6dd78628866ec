"""Workers at which requests failed lately: outlier detection as in Envoy, with seconds in place of ejection."""

from collections.abc import Mapping
from typing import Protocol

from posthouse.domain.decision import Failures
from posthouse.domain.reports import Ended
from posthouse.domain.worker import Worker, WorkerId
from posthouse.fleet.events import Level, Outbox
from posthouse.fleet.ledger import Request
from posthouse.policy.faults import penalty_s
from posthouse.policy.tuning import TUNING

FAULTS = ("", "Error")
"""Words of workers for an end that is their own fault; the older generations have none."""


class Workers(Protocol):
    """What requests ask of workers' lives."""

    @property
    def workers(self) -> Mapping[WorkerId, Worker]:
        """All that there are."""

    def reported_at(self, worker_id: WorkerId) -> float:
        """When the worker last reported; 0 if never."""


class Outliers(dict[WorkerId, Failures]):
    """What is held against each worker."""

    def __init__(self, lives: Workers, outbox: Outbox) -> None:
        super().__init__()
        self._lives, self._outbox = lives, outbox

    def hold_against(self, worker_id: WorkerId, count: int, now: float, why: str) -> None:
        """Counts failures, or takes them back if `count` is negative."""
        worker = self._lives.workers.get(worker_id)
        if count == 0 or worker is None:
            return
        before = self.get(worker_id, Failures())
        after = min(before.count + count, TUNING.max_failures)
        if after <= 0:
            self.pop(worker_id, None)
            return
        if before.count == 0:
            self._outbox.say(Level.TRACE, f"{why}; others are preferred for a while", worker)
        self[worker_id] = Failures(after, now if count > 0 else before.last_at)

    def keep_away(self, request: Request, worker_id: WorkerId, now: float, counted: int = 0) -> None:
        """Keeps a request that is asked for again from where it failed. `counted`: what its end counted already."""
        before = request.failures.get(worker_id, Failures())
        request.failures = {**request.failures, worker_id: Failures(before.count + 1, now)}
        once = 1 if before.count == 0 else 0  # one request's many tries are one failure of the worker
        why = f"request {request.idx} failed here: it was asked for again"
        self.hold_against(worker_id, once - counted, now, why)

    def judge(self, request: Request, worker_id: WorkerId, ended: Ended, now: float) -> int:
        """Counts what a worker says of a request's end for or against it, and returns what was counted.

        A success is not certain: workers call it one when their model answers with an error. So it only takes back one
        failure, and that not for good if the request is asked for again. What a worker rejects is no fault of it.
        """
        if ended.success:
            if worker_id not in self:
                return 0
            self.hold_against(worker_id, -1, now, "")
            return -1
        if ended.status not in FAULTS or worker_id in request.failures:
            return 0
        self.hold_against(worker_id, 1, now, f"request {request.idx} failed here: {ended.status or 'failed'}")
        return 1

    def judge_lost(self, request: Request, worker_id: WorkerId, now: float) -> int:
        """The same for one that its worker never had: its host may neither refuse nor answer."""
        if worker_id not in self._lives.workers or request.seen or worker_id in request.failures:
            return 0
        self.hold_against(worker_id, 1, now, f"request {request.idx} never came here")
        return 1

    def fade(self, now: float) -> None:
        """Forgets what counts no more."""
        for worker_id, left_s in self.penalties_s(now).items():
            if left_s == 0:
                del self[worker_id]

    def penalties_s(self, now: float) -> dict[WorkerId, float]:
        """The penalty of each worker in seconds; 0 where it has faded."""
        return {i: penalty_s(f, self._lives.reported_at(i), now) for i, f in self.items()}
