"""Messages of workers: checked against their token, and handed to their endpoint's controller."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from posthouse.domain.reports import Ended, Report
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine.buckets import Buckets
from posthouse.engine.hub import Hub
from posthouse.engine.managed import ManagedEndpoint
from posthouse.errors import Elsewhere, TooMany, Unauthorized
from posthouse.fleet.events import Reported, RequestsEnded
from posthouse.wire.grant import AGENT
from posthouse.wire.signed import other_scheme

MAX_PROVEN = 100_000
"""Most workers of which it is remembered; beyond it all are found out again, each with the scheme that it has."""

TRIED_S = 15.0
"""For this long after another scheme is tried, what a worker rejects may have been signed before: workers try for up
to 11 s to deliver a report."""

MESSAGE_BYTES = 4096
"""A message counts as one more for each of these; usual ones have less than 1,000."""


@dataclass(slots=True)
class Ingest:
    hub: Hub
    check_worker: Callable[[int, str], bool]
    """Whether a token is that worker's own; constant in time."""
    messages: Buckets = field(default_factory=lambda: Buckets(10.0))
    """How many messages each worker may send."""
    on_unknown: Callable[[int], None] = lambda worker_id: None
    """Called with the id of each worker that is not here and sends a message with a good token."""
    counts: Counter[str] = field(default_factory=Counter)
    _proven: set[WorkerId] = field(default_factory=set)
    """Workers that have verified what was signed for them, where that was in doubt."""
    _tried_at: dict[WorkerId, float] = field(default_factory=dict)
    """When another scheme was last tried with a worker."""

    def report(self, managed: ManagedEndpoint, worker_id: int, report: Report) -> None:
        """Handles a report of a worker of this endpoint."""
        now = self.hub.clock.now()
        worker = managed.fleet.workers[WorkerId(worker_id)]
        managed.accepted(worker.id)
        template = self.hub.template_of(worker)
        if template is not None and template.loading_timeout_s and not report.loading_timeout_s:
            report = replace(report, loading_timeout_s=template.loading_timeout_s)
        if (scheme := self._scheme(worker, report, now)) != report.scheme:
            report = replace(report, scheme=scheme)
        managed.handle(Reported(worker.id, report), now)

    def ended(self, managed: ManagedEndpoint, worker_id: int, ended: tuple[Ended, ...]) -> None:
        """Handles the ends of requests; those that the worker does not have are counted and ignored.

        A message that ends one does not count: there are no more of them than requests, and until it comes a place that
        is free stands empty.
        """
        now, ledger = self.hub.clock.now(), managed.fleet.ledger
        if any((request := ledger.open.get(e.request_idx)) and request.worker_id == worker_id for e in ended):
            self.messages.give_back(worker_id)
        if managed.fleet.workers[WorkerId(worker_id)].version.endswith(AGENT):
            ended = tuple(replace(e, certain=e.success and e.status == "Success") for e in ended)
        if ledger.on_end:
            managed.settle(WorkerId(worker_id), ended, now)
        managed.handle(RequestsEnded(WorkerId(worker_id), ended), now)

    def home(self, worker_id: int, token: str) -> ManagedEndpoint:
        """The worker's endpoint. Raises: Unauthorized for an unknown worker or a token that is not its own; Elsewhere
        where another server may have it."""
        is_its_own, managed = self.check_worker(worker_id, token), self.hub.home_of(worker_id)
        if is_its_own and managed is not None:
            return managed
        if is_its_own:
            if self.hub.lease.is_shared():
                raise Elsewhere("another server has this worker: send it again", worker_id=worker_id)
            self.on_unknown(worker_id)
        self.counts["messages_refused"] += 1
        if managed is not None:
            managed.refused(WorkerId(worker_id), has_token=bool(token), now=self.hub.clock.now())
        raise Unauthorized("mtoken: not the token of this worker")

    def _scheme(self, worker: Worker, report: Report, now: float) -> str:
        """What the worker verifies: as its workergroup says, or else its version.

        Where two generations report one version, the scheme is kept with which it did anything, and the other is tried
        after a report in which it has rejected everything, unless that may have been signed before the last change.
        """
        group = self.hub.workergroups.get(worker.group_id)
        if group is not None and group.signature_scheme:
            return group.signature_scheme.upper()  # rows written earlier may say A5s
        other = other_scheme(report.scheme)
        if other == report.scheme:
            return other
        scheme = other if worker.scheme == other else report.scheme
        if report.done > 0.0:
            self._proven.add(worker.id)
            self._tried_at.pop(worker.id, None)
            if len(self._proven) > MAX_PROVEN:
                self._proven.clear()
        elif (
            (report.rejected > 0.0 and not report.working)
            and worker.id not in self._proven
            and now - self._tried_at.get(worker.id, -math.inf) >= TRIED_S
        ):
            if len(self._tried_at) > MAX_PROVEN:
                self._tried_at.clear()
            self._tried_at[worker.id] = now
            return other_scheme(scheme)
        return scheme

    def count(self, worker_id: int, size: int) -> None:
        """Counts a message of so many bytes: a long one takes as long as many. Raises: TooMany."""
        if wait_s := self.messages.take(worker_id, self.hub.clock.now(), 1.0 + size // MESSAGE_BYTES):
            self.counts["messages_throttled"] += 1
            raise TooMany(
                "id: this worker sends more messages than the setting rates.reports_per_worker allows",
                wait_s,
            )
