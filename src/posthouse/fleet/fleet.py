"""One endpoint, remembered: its workers, its open requests, what it has learned and spent.

Synchronous and deterministic: everything that happens is told by a call with `now`, nothing is looked up. The running
server and a world in virtual time own the same class.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from posthouse.domain.address import believed
from posthouse.domain.endpoint import Endpoint
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import (
    COMING,
    NOTHING_NEW,
    STATE_TIMEOUT_S,
    UPDATING,
    Command,
    Event,
    Goal,
    Observation,
    State,
    after_command,
    after_observation,
    goal_beyond_update,
    next_command,
    overdue,
)
from posthouse.domain.load import Demand, Ended, Report
from posthouse.domain.offer import SECONDS_PER_HOUR, GroupOffer
from posthouse.domain.plan import Action, Decision, Failures, Obstacle, Snapshot
from posthouse.domain.worker import Worker, WorkerId
from posthouse.domain.workergroup import WorkergroupId
from posthouse.fleet.estimator import Estimator
from posthouse.fleet.history import History, Level
from posthouse.fleet.ledger import Ledger, Request
from posthouse.fleet.line import MISSES, Line, Offer
from posthouse.fleet.routing_table import RoutingTable
from posthouse.fleet.service import ServiceTimes
from posthouse.fleet.window import RateWindow
from posthouse.fleet.worker_stats import WorkerStats
from posthouse.policy.backoff import resume_at, same_fault
from posthouse.policy.outliers import penalty_s
from posthouse.policy.route import queued_work, work_ahead
from posthouse.policy.tuning import TUNING
from posthouse.recording.log import Slice, TrafficLog

WAITING_KEPT_S = 20.0
"""How long a waiting request is remembered after it was last asked for. Polling clients ask every 5 s or sooner."""
CLASSIC_KEPT_S = 5.0
"""The same for clients that do not poll: they ask anew, as another request."""
UNSEEN_KEPT_S = 30.0
"""How long an assigned request is believed in without its worker having seen it."""
SEEN_KEPT_S = 86_400.0
"""How long a request is believed in that its worker says it works on; each report begins it anew."""
OVERTAKEN_S = 30.0
"""A request that came this much later does not take the last room from one that waits, even while that one's client
sleeps. With less, rooms would stand empty in an overload that is fair anyway; people wait for about a minute."""
ASLEEP_S = 10.0
"""How long after it asked a polling client is believed to come back: it is held for up to 4 s, and sleeps up to 5."""
UNCLEAR_S = 30.0
"""How long after a creation with an unknown outcome an instance that is not listed may still appear."""
FAILED_DRAIN_S = 60.0
"""How long a worker that reported an error may finish what it has: it often serves on."""
MAX_WAITING = 10_000
"""How many waiting requests are remembered one by one; those beyond are counted as load and must ask anew."""
ACCRUE_S = 10.0
"""How often what each worker has spent is added up while no state changes; the sum of all is exact at every tick."""

FAULTS = ("", "Error")
"""Words of workers for an end that is their own fault; the older generations have none."""


class Assignment(NamedTuple):
    """A request that has a worker."""

    worker: Worker
    request_idx: int
    reqnum: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that has none yet. `request_idx` 0: it is not remembered, and must be asked for anew."""

    request_idx: int
    held: bool = False
    """It is held open: what becomes of it will be among `Fleet.take_delivered`."""


@dataclass(slots=True)
class Counters:
    """Counts since the start, for metrics and tests."""

    routed: int = 0
    waited: int = 0
    ended: int = 0
    failed: int = 0
    expired: int = 0
    late_observations: int = 0
    refused_ends: int = 0
    refused_addresses: int = 0


class Fleet:
    """The memory of one endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        now: float,
        workers: Iterable[Worker] = (),
        stabilization_s: float = 0.0,
        spent_usd: float = 0.0,
    ) -> None:
        """`workers`: those of an earlier life, DESTROYED ones for what they teach. `spent_usd`: by workers now gone."""
        self.endpoint = endpoint
        self.workers: dict[WorkerId, Worker] = {}
        self.ledger = Ledger()
        self.line = Line()
        self._delivered: list[tuple[int, Assignment | Waiting]] = []
        self.counters = Counters()
        self.history = History()
        self.stabilized_at = now + stabilization_s
        self.spent_gone_usd = spent_usd
        self._unsaved: dict[WorkerId, Worker | None] = {}
        self._routing = RoutingTable()
        self._offered = RateWindow(TUNING.long_window_s, now)
        self._squares = RateWindow(TUNING.long_window_s, now)  # of costs squared: tells the size of requests by work
        self._next_idx = int(now * 1e6)
        self._reqnum: dict[WorkerId, int] = {}
        self._last_request_at = 0.0
        self._reported_at: dict[WorkerId, float] = {}
        self._working: dict[WorkerId, int] = {}
        self._in_flight: set[WorkerId] = set()
        self._settled_at: dict[WorkerId, float] = {}
        self._rests_until: dict[WorkerId, float] = {}
        self._progress: dict[WorkerId, dict[str, str]] = {}
        self._accrued_at = self._aged_at = now
        self._estimator = Estimator()
        self._services = ServiceTimes()
        self._service_s = self._slot_unit_s = 0.0
        self._slots: dict[WorkerId, float] = {}
        self._group_failures: dict[WorkergroupId, Failures] = {}
        self._outliers: dict[WorkerId, Failures] = {}
        self._worker_stats: dict[WorkerId, WorkerStats] = {}
        self._obstacles: list[str] = []
        self._born_at = now
        for worker in sorted(workers, key=lambda w: w.id):
            self._restore(worker, now)
        self.traffic_log = TrafficLog(now, len(self.workers))
        if self.workers:
            self.history.note(now, Level.INFO1, f"the server started; workers that it knows of: {len(self.workers)}")
        self._rebuild_routing()

    # -- requests ------------------------------------------------------------------------------------------------

    def assign(
        self, idx: int, cost: float, now: float, polls: bool = True, hold_s: float = 0.0
    ) -> Assignment | Waiting:
        """A worker for request `idx` (0: a new request), or word that it waits.

        `polls`: the client will ask again with the same index. A known index adds no load. One that has a worker and
        asks again has failed there, and is kept from that worker for a while. `hold_s`: how long it is held open if it
        must wait, to be given the first worker that is free.
        """
        if self.line and idx not in self.line and self.has_room(cost, now):
            self.serve(now)  # room that came with time alone is for those that wait already
        self._last_request_at = now
        request = self.ledger.find(idx) if idx else None
        if request is None:
            request = self._open(idx, cost, now)
        else:
            if request.guessed:
                self.ledger.weigh(request, cost)
            if request.worker_id is not None:
                self._keep_away(request, request.worker_id, now)
        if found := self._give(request, now):
            self.line.leave(request.idx)
            return found
        self.counters.waited += 1
        if request.idx not in self.ledger.waiting and len(self.ledger.waiting) >= MAX_WAITING:
            self._remove(request, now)
            return Waiting(0)
        kept_s = max(WAITING_KEPT_S, hold_s + ASLEEP_S) if polls else max(CLASSIC_KEPT_S, hold_s)
        self.ledger.keep(request, now + kept_s)
        self._move(request, None, now)
        if hold_s > 0:
            self.line.join(request.idx, request.first_at, now + hold_s)
        return Waiting(request.idx, hold_s > 0)

    def _give(self, request: Request, now: float) -> Assignment | None:
        """Gives a request a worker, if one is free for it that is not kept for an older one."""
        worker_id = self._pick(request, now)
        if worker_id is None or (self.ledger.waiting and self._overtakes(request, worker_id, now)):
            return None
        if request.unserved:
            request.unserved = False
            if now > request.first_at:
                self.traffic_log.waited(now - request.first_at, request.cost)
        self._move(request, worker_id, now)
        worker = self.workers[worker_id]
        if worker.scheme == "A4":  # a generation that does not say what it works on: expect it done by then
            self.ledger.keep(request, now + 10.0 + 2.0 * self.ledger.work[worker_id] / worker.perf)
        else:
            self.ledger.keep(request, now + UNSEEN_KEPT_S)
        reqnum = self._reqnum.get(worker_id)
        reqnum = self._reqnum[worker_id] = int(self._born_at * 1000) + 1 if reqnum is None else reqnum + 1
        self.counters.routed += 1
        return Assignment(worker, request.idx, reqnum)

    def serve(self, now: float) -> None:
        """Offers free workers to those that are held, the one that first came before the others."""

        def give(idx: int) -> Offer:
            request = self.ledger.waiting.get(idx)
            if request is None:
                self._delivered.append((idx, Waiting(idx)))
                return Offer.TAKEN
            if found := self._give(request, now):
                self._delivered.append((idx, found))
                return Offer.TAKEN
            return Offer.MISSED if request.failures else Offer.NO_ROOM

        self.line.offer(give)

    def let_go(self, now: float) -> float | None:
        """Tells those that have been held long enough that they wait. When the next one will have been."""
        self._delivered += [(idx, Waiting(idx)) for idx in self.line.over(now)]
        return self.line.next_end()

    def release(self) -> None:
        """Tells everybody who is held that they wait."""
        self._delivered += [(idx, Waiting(idx)) for idx in self.line.clear()]

    def take_delivered(self) -> list[tuple[int, Assignment | Waiting]]:
        """What has become of held requests since this was last asked."""
        delivered, self._delivered = self._delivered, []
        return delivered

    def ended(self, worker_id: WorkerId, ended: Iterable[Ended], now: float) -> None:
        """Takes in the ends of requests; those that the worker does not have are counted and ignored."""
        for one in ended:
            self.end(worker_id, one, now)
        self.serve(now)

    def end(self, worker_id: WorkerId, ended: Ended, now: float) -> bool:
        """Ends a request that this worker has. False, and nothing changes, if it does not have it."""
        request = self.ledger.find(ended.request_idx)
        if request is None or request.worker_id != worker_id:
            self.counters.refused_ends += 1
            return False
        self._remove(request, now, self._judge(request, worker_id, ended, now))
        self.counters.ended += 1
        if not ended.success:
            self.counters.failed += 1
            status = ended.status or "failed"
            text = f"request {ended.request_idx} ended after {now - request.assigned_at:.1f} s: {status}"
            self.history.note(now, Level.DEBUG, text, self.workers.get(worker_id))
        elif request.cost > 0 and not ended.session:
            took_s = now - request.assigned_at
            self._services.add(request.cost, took_s, request.alone)
            if request.alone:
                self.traffic_log.served(request.cost, took_s)
        return True

    def failed(self, worker_id: WorkerId, idx: int, why: str, now: float) -> bool:
        """Ends a request that failed at its worker, as its caller saw. False, and nothing changes, if it is not there.

        It is held against the worker as when the request is asked for again, which then counts no second time.
        """
        request = self.ledger.find(idx)
        if request is None or request.worker_id != worker_id:
            self.counters.refused_ends += 1
            return False
        once = 0 if worker_id in request.failures else 1
        self._hold_against(worker_id, once, now, f"request {idx} failed here: {why}")
        self._remove(request, now, once)
        self.counters.failed += 1
        return True

    def _pick(self, request: Request, now: float, besides: WorkerId | None = None) -> WorkerId | None:
        """The worker for a request; None if each is too busy, or it failed there, or twice anywhere, too lately."""
        avoid: set[WorkerId] = set()
        if request.failures:
            avoid = {i for i, f in request.failures.items() if resume_at(f, TUNING.retry_s, TUNING.max_penalty_s) > now}
            if len(avoid) > 1 and sum(f.last_at > now - TUNING.retry_s for f in request.failures.values()) > 1:
                return None
        if besides is not None:
            avoid.add(besides)
        return self._free_worker(request.cost, request.idx, now, avoid)

    def _free_worker(self, cost: float, idx: int, now: float, avoid: Collection[WorkerId] = ()) -> WorkerId | None:
        penalties_s = self._penalties_s(now) if self._outliers else None
        return self._routing.pick(cost, self.endpoint.scaling.max_queue_time, idx, avoid, penalties_s)

    def _overtakes(self, request: Request, worker_id: WorkerId, now: float) -> bool:
        """True if `request` would take the last room from one that came `OVERTAKEN_S` earlier and waits.

        Who is held is offered first; this is for those that sleep between two polls. Less than `MISSES` may be before
        them that may not go there, or do not come back.
        """
        for older in islice(self.ledger.waiting.values(), MISSES):
            awaited = older.expires_at - now > WAITING_KEPT_S - ASLEEP_S
            if awaited and request.first_at - older.first_at >= OVERTAKEN_S and self._pick(older, now) is not None:
                work, count = self._load_of(worker_id)
                ahead = work_ahead(work + request.cost, count + 1, self._slots.get(worker_id, 1.0))
                stays_free = self._routing.has_room_after(worker_id, ahead, self.endpoint.scaling.max_queue_time)
                return not stays_free and self._pick(older, now, besides=worker_id) is None
        return False

    def has_room(self, cost: float, now: float) -> bool:
        """True if a new request would get a worker now."""
        return self._free_worker(cost, 0, now) is not None

    def forget(self, idx: int) -> None:
        """Drops a request whose client went away before it was told of a worker: nothing happened to it there."""
        self.line.leave(idx)
        request = self.ledger.find(idx)
        if request is not None:
            left = request.worker_id
            self._count_out(request)
            self.ledger.withdraw(request)
            if left is not None:
                self._routing.set_work(left, self._ahead(left))

    def _open(self, idx: int, cost: float, now: float) -> Request:
        if idx == 0:
            idx = self._next_idx = self._next_idx + 1
            while self.ledger.find(idx) is not None:  # taken by one of before a restart
                idx = self._next_idx = self._next_idx + 1
            self._offered.add(cost, now)
            self._squares.add(cost * cost, now)
            self.traffic_log.asked(cost, now)
            return Request(idx, cost, now, now, unserved=True)
        request = Request(idx, cost, now, now)
        if (ended := self.ledger.ended(idx)) is not None:
            ended_at, request.failures, counted = ended
            self._keep_away(request, ended_at, now, counted)
        return request

    def _keep_away(self, request: Request, worker_id: WorkerId, now: float, counted: int = 0) -> None:
        """Keeps a request that is asked for again from where it failed. `counted`: what its end counted already."""
        before = request.failures.get(worker_id, Failures())
        request.failures = {**request.failures, worker_id: Failures(before.count + 1, now)}
        once = 1 if before.count == 0 else 0  # one request's many tries are one failure of the worker
        self._hold_against(worker_id, once - counted, now, f"request {request.idx} failed here: it was asked for again")

    def _judge(self, request: Request, worker_id: WorkerId, ended: Ended, now: float) -> int:
        """Counts what a worker says of a request's end for or against it, and returns what was counted.

        A success is not certain: workers call it one when their model answers with an error. So it only takes back one
        failure, and that not for good if the request is asked for again. What a worker rejects is no fault of it.
        """
        if ended.success:
            if worker_id not in self._outliers:
                return 0
            self._hold_against(worker_id, -1, now, "")
            return -1
        if ended.status not in FAULTS or worker_id in request.failures:
            return 0
        self._hold_against(worker_id, 1, now, f"request {request.idx} failed here: {ended.status or 'failed'}")
        return 1

    def _judge_lost(self, request: Request, worker_id: WorkerId, now: float) -> int:
        """The same for one that its worker never had: its host may neither refuse nor answer. The oldest never say."""
        worker = self.workers.get(worker_id)
        if worker is None or worker.scheme == "A4" or request.seen or worker_id in request.failures:
            return 0
        self._hold_against(worker_id, 1, now, f"request {request.idx} never came here")
        return 1

    def _hold_against(self, worker_id: WorkerId, count: int, now: float, why: str) -> None:
        before = self._outliers.get(worker_id, Failures())
        after = min(before.count + count, TUNING.max_failures)
        if count == 0 or worker_id not in self.workers:
            return
        if after <= 0:
            self._outliers.pop(worker_id, None)
            return
        if before.count == 0:
            self.history.note(now, Level.TRACE, f"{why}; others are preferred for a while", self.workers[worker_id])
        self._outliers[worker_id] = Failures(after, now if count > 0 else before.last_at)

    def _load_of(self, worker_id: WorkerId) -> tuple[float, int]:
        """Work and number of the requests at a worker."""
        return self.ledger.work.get(worker_id, 0.0), len(self.ledger.at.get(worker_id, ()))

    def _ahead(self, worker_id: WorkerId) -> float:
        """Work at a worker before it can begin with another request."""
        return work_ahead(*self._load_of(worker_id), self._slots.get(worker_id, 1.0))

    def _learn_service(self) -> None:
        work, count = self.ledger.outstanding(), len(self.ledger) - len(self.ledger.waiting)
        service_s = self._services.of(work, count)
        if service_s is not None:
            self._service_s, unit_s = service_s, service_s * count / work
            if abs(unit_s - self._slot_unit_s) > TUNING.tolerance * self._slot_unit_s:
                self._slot_unit_s = unit_s
                self._rebuild_routing()

    def _penalties_s(self, now: float) -> dict[WorkerId, float]:
        """What is held against workers at which requests failed."""
        return {i: penalty_s(f, self._reported_at.get(i, 0.0), now) for i, f in self._outliers.items()}

    def _move(self, request: Request, worker_id: WorkerId | None, now: float) -> None:
        left = request.worker_id
        if worker_id is None:
            self.ledger.wait(request)
        else:
            self.ledger.assign(request, worker_id, now)
            self._routing.set_work(worker_id, self._ahead(worker_id))
        if left is not None and left != worker_id:
            self._routing.set_work(left, self._ahead(left))

    def _remove(self, request: Request, now: float, counted: int = 0) -> None:
        left = request.worker_id
        self._count_out(request)
        self.ledger.remove(request, counted)
        if left is not None:
            if left in self._worker_stats:
                self._worker_stats[left].ended(request.cost, now - request.assigned_at, now)
            self._last_request_at = now
            self._routing.set_work(left, self._ahead(left))

    def _count_out(self, request: Request) -> None:
        if request.unserved:
            request.unserved = False
            self.traffic_log.gave_up(request.cost)

    # -- what workers and providers tell ---------------------------------------------------------------------------

    def report(self, worker_id: WorkerId, report: Report, now: float) -> None:
        """Takes in a worker's report."""
        self._report(worker_id, report, now)
        self.serve(now)

    def _report(self, worker_id: WorkerId, report: Report, now: float) -> None:
        before = worker = self.workers[worker_id]
        self._reported_at[worker_id] = now
        if worker.state in UPDATING and worker_id in self._in_flight:
            return  # by what ran before, which is being ended
        figures = self._worker_stats.get(worker_id) or self._worker_stats.setdefault(worker_id, WorkerStats(now))
        figures.take(report, now)
        self._working[worker_id] = len(report.working) if report.working is not None else report.working_count
        seat = worker.url, worker.perf
        if (worker.version, worker.scheme) != (report.version, report.scheme):
            worker = replace(worker, version=report.version, scheme=report.scheme)
        url = believed(report.url, worker.url, worker.addresses)
        placed = bool(url)
        if placed:
            worker = worker if url == worker.url else replace(worker, url=url)
        elif report.url:
            self.counters.refused_addresses += 1
            worker = replace(worker, message=f"reported an address that is not its own: {report.url[:200]}")
        # A report that does not speak of it goes on as it was; one of a worker that comes back is not ready yet.
        perf = report.max_perf if report.max_perf is not None else worker.perf if worker.state is State.IDLE else 0.0
        ready = perf > 0 and not report.error and placed
        if ready and perf != worker.perf:
            worker = replace(worker, perf=perf)
            self._estimator.measured(worker)
        if report.error:
            worker = replace(worker, message=report.error[:500])
        if worker is not before:
            self._put(worker)
        if seat != (worker.url, worker.perf):
            self._rebuild_routing()
            text = f"reports from {worker.url}, version {worker.version or 'unknown'}, {worker.perf:g} work/s"
            self.history.note(now, Level.TRACE, text, worker)
        if worker.message != before.message and not report.error:
            self.history.note(now, Level.INFO0, worker.message, worker)
        if report.error:
            self._see(worker_id, Observation.REPORTED_ERROR, now)
        else:
            self._see(worker_id, Observation.REPORTED_READY if ready else Observation.REPORTED_LOADING, now)
        self._note_progress(worker_id, "report", f"{figures.disk_gb:.3f}", now)
        if report.working is not None:
            self._reconcile(worker_id, report, now)

    def observe(self, provider: str, instances: Sequence[Instance], asked_at: float, now: float) -> None:
        """Takes in a provider's complete list, asked for at `asked_at`."""
        by_label = {i.label: i for i in instances}
        by_id = {i.id: i for i in instances}
        for worker in [w for w in self.workers.values() if w.provider == provider]:
            settled_at = self._settled_at.get(worker.id, self._born_at)
            if worker.state is State.WANTED or worker.id in self._in_flight or asked_at < settled_at:
                continue  # the list may be older than our last command
            instance = by_id.get(worker.instance_id, by_label.get(worker.label))
            if instance is not None:
                self.observe_instance(worker.id, instance, now)
                continue
            known = worker.instance_id and asked_at > settled_at  # of the same moment, it may be older
            if known or worker.state is State.DESTROYING or asked_at >= settled_at + UNCLEAR_S:
                self._see(worker.id, Observation.ABSENT, now)

    def observe_instance(self, worker_id: WorkerId, instance: Instance, now: float) -> None:
        """Takes in what a provider says of a worker's instance."""
        worker = self.workers[worker_id]
        addresses = instance.addresses or worker.addresses
        message = instance.message or worker.message
        if (worker.instance_id, worker.addresses, worker.message) != (instance.id, addresses, message):
            self._put(replace(worker, instance_id=instance.id, addresses=addresses, message=message))
        self._note_progress(worker_id, "instance", instance.progress, now)
        self._see(worker_id, instance.seen, now)

    # -- the control loop's tick -------------------------------------------------------------------------------------

    def advance(self, now: float, silent_s: float) -> None:
        """Lets time pass: deadlines, silence, requests that nobody asks for any more, money."""
        self._aged_at = now
        if now - self._accrued_at >= ACCRUE_S:
            self._accrue(now)
        self._learn_service()
        for worker_id in list(self.workers):
            worker = self.workers[worker_id]  # as it is now: what one was seen to do adds up the money of all
            if overdue(worker.state, now, worker.since, worker.progressed_at):
                reason = f"{worker.state} for {now - worker.since:.0f} s without progress"
                self._put(replace(worker, message=worker.message or reason))
                self._see(worker.id, Observation.OVERDUE, now)
            elif worker.state is State.IDLE and now - self._reported_at.get(worker.id, self._born_at) > silent_s:
                self._see(worker.id, Observation.SILENT, now)
        for worker_id, left_s in self._penalties_s(now).items():
            if left_s == 0:
                del self._outliers[worker_id]
        for request in self.ledger.expired(now):
            counted = 0
            if request.worker_id is not None:
                self.counters.expired += 1
                text = f"request {request.idx} was given up, {now - request.assigned_at:.0f} s after it was sent here"
                self.history.note(now, Level.DEBUG, text, self.workers.get(request.worker_id))
                counted = self._judge_lost(request, request.worker_id, now)
            self._remove(request, now, counted)
        self.serve(now)

    def snapshot(self, now: float, offers: tuple[GroupOffer, ...]) -> Snapshot:
        """All that a decision may look at."""
        oldest_at = self.ledger.oldest_waiting_at()
        recent_s = int(min(TUNING.window_s, max(TUNING.recent_s, self._service_s)))
        # After a restart the minutes before it are not known: they are no minutes without load.
        long_s = min(TUNING.long_window_s, max(TUNING.window_s, self._offered.known_s(now)))
        long_rate = self._offered.rate(long_s, now)
        demand = Demand(
            cost=self._squares.rate(long_s, now) / long_rate if long_rate else 0.0,
            rate=self._offered.rate(TUNING.window_s, now),
            long_rate=long_rate,
            recent_rate=self._offered.rate(recent_s, now),
            recent_s=recent_s,
            variance=self._offered.variance(TUNING.recent_s, TUNING.window_s // TUNING.recent_s, now) / TUNING.recent_s,
            waiting=self.ledger.waiting_work,
            waiting_count=len(self.ledger.waiting),
            outstanding=self.ledger.outstanding(),
            outstanding_count=len(self.ledger) - len(self.ledger.waiting),
            queued=sum(queued_work(*self._load_of(i), self._slots.get(i, 1.0)) for i in self.ledger.at),
            service_s=self._service_s,
            oldest_wait_s=0.0 if oldest_at is None else now - oldest_at,
            last_request_at=self._last_request_at,
        )
        return Snapshot(
            now=now,
            endpoint=self.endpoint,
            workers=tuple(self.workers.values()),
            demand=demand,
            offers=offers,
            estimates=self._estimator.estimates(now),
            busy=frozenset(i for i in self.workers if self.busy(i)),
            resting=frozenset(i for i, until in self._rests_until.items() if until > now),
            outliers=frozenset(self.outliers(now)),
            group_failures=dict(self._group_failures),
            machine_failures=dict(self._estimator.failures),
            stabilized_at=self.stabilized_at,
        )

    def tick(self, decision: Decision, now: float, ids: Iterator[WorkerId], label: str) -> tuple[Action, ...]:
        """Takes on a decision; returns the commands that are due. `label`: what every label begins with."""
        for worker_id, goal in decision.goals.items():
            self.set_goal(worker_id, goal)
        obstacles = [f"{o.what}: {o.rule}" for o in decision.because if isinstance(o, Obstacle)]
        for text in obstacles:
            if text not in self._obstacles:
                self.history.note(now, Level.INFO0, text)
        self._obstacles = obstacles
        for rental in decision.rentals:
            offer, worker_id = rental.offer.offer, next(ids)
            self._put(
                Worker(
                    id=worker_id,
                    endpoint_id=self.endpoint.id,
                    group_id=rental.group_id,
                    label=f"{label}{worker_id}",
                    provider=offer.provider,
                    offer_id=offer.id,
                    machine=offer.machine,
                    gpu_name=offer.gpu_name,
                    num_gpus=offer.num_gpus,
                    price=offer.price,
                    capabilities=offer.capabilities,
                    created_at=now,
                    goal=rental.goal,
                    since=now,
                    progressed_at=now,
                )
            )
            text = f"is wanted {rental.goal}: offer {offer.id} of {offer.provider} for workergroup {rental.group_id}"
            self.history.note(now, Level.INFO1, text, self.workers[worker_id])
        self.serve(now)
        return self.due(now)

    def due(self, now: float) -> tuple[Action, ...]:
        """The commands that move workers toward their goals, but for workers with a command on its way."""
        actions = []
        for worker in self.workers.values():
            command = next_command(worker.goal, worker.state, self._drains(worker, now), worker.capabilities)
            rests = self._rests_until.get(worker.id, 0.0) > now
            if command is not None and worker.id not in self._in_flight and not rests:
                actions.append(Action(worker.id, command))
        return tuple(actions)

    def command_sent(self, action: Action, now: float) -> None:
        """Notes that a command goes out. Raises: IllegalMove if the tables do not allow it."""
        worker = self.workers[action.worker_id]
        state = after_command(worker.state, action.command)
        if action.command is Command.UPDATE:
            self.set_goal(worker.id, goal_beyond_update(worker.state))
        self._enter(action.worker_id, state, now, action.command)
        self.traffic_log.given[action.command] += 1
        if state is not State.DESTROYED:
            self._in_flight.add(action.worker_id)

    def command_answered(self, worker_id: WorkerId, now: float, failure: str = "", blame: bool = True) -> None:
        """Notes that a command has been answered, or that its answer will not be waited for any longer.

        `failure`: a clear refusal, empty for success or an unknown outcome. `blame`: it counts against the workergroup
        and the machine.
        """
        self._in_flight.discard(worker_id)
        worker = self.workers.get(worker_id)
        if worker is None:
            return
        self._settled_at[worker_id] = now
        if not failure:
            return
        self._rests_until[worker_id] = now + TUNING.backoff_s  # given no command meanwhile
        # A start that was refused leaves it cold: whether to try again, or another, is decided anew.
        was_cold = worker.state in (State.STARTING, State.UPDATE_STARTING)
        goal = Goal.COLD if was_cold and worker.goal is Goal.HOT else worker.goal
        self._put(replace(worker, message=failure[:500], goal=goal))
        self.history.note(now, Level.INFO0, f"its command was refused: {failure}", worker)
        if blame:
            self._blame(worker, now)
        self._see(worker_id, Observation.FAILED, now)

    def set_goal(self, worker_id: WorkerId, goal: Goal) -> None:
        """Sets what we want of a worker."""
        worker = self.workers.get(worker_id)
        if worker is not None and worker.goal is not goal:
            self._put(replace(worker, goal=goal))
            self._rebuild_routing()

    def ask_update(self, group_id: WorkergroupId, now: float) -> int:
        """Asks for an update of every worker that a workergroup has; how many these are.

        What nobody was asked to make yet will be made from the present template, and what failed will be replaced.
        """
        passing = (State.WANTED, State.ERROR, State.DESTROYING)
        due = [w for w in self._of(group_id) if w.goal is not Goal.GONE and w.state not in passing]
        for worker in due:
            self._put(replace(worker, outdated_at=now))
        self._group_failures.pop(group_id, None)  # what comes now may be the next command
        self.history.note(now, Level.INFO1, f"workergroup {group_id} is updated: {len(due)} workers")
        return len(due)

    def cancel_update(self, group_id: WorkergroupId, now: float) -> None:
        """Calls off the updates that have not begun: those workers stay as they are."""
        for worker in self._of(group_id):
            goal = goal_beyond_update(worker.state) if worker.goal is Goal.UPDATED else worker.goal
            self._put(replace(worker, outdated_at=0.0, goal=goal))
        self.history.note(now, Level.INFO1, f"the update of workergroup {group_id} is called off")
        self._rebuild_routing()

    def updated(self, worker_id: WorkerId) -> None:
        """Notes that a worker's instance runs what its template says now; not where it was asked anew meanwhile."""
        worker = self.workers[worker_id]
        if worker.state in UPDATING and worker.outdated_at <= worker.since:
            self._put(replace(worker, outdated_at=0.0))

    def configure(self, endpoint: Endpoint) -> None:
        """Takes on new parameters."""
        self.endpoint = endpoint

    def drain_traffic(self, now: float) -> Slice:
        """What happened since the traffic log was cut before, up to now."""
        self._accrue(now)
        return self.traffic_log.drain(now, len(self.workers))

    def copy_traffic(self, now: float) -> Slice:
        """The same, to look at."""
        self._accrue(now)
        return self.traffic_log.copy(now)

    def take_changes(self, everything: bool = False) -> tuple[Worker, ...]:
        """Workers that changed since they were last taken, destroyed ones included; all of them for `everything`.

        What is spent grows all the time and is no change by itself.
        """
        rows = {i: gone or self.workers[i] for i, gone in self._unsaved.items()}
        if everything:
            self._accrue(self._aged_at)
            rows |= self.workers
        self._unsaved = {}
        return tuple(rows.values())

    def give_back(self, rows: Iterable[Worker]) -> None:
        """Takes back changes that could not be stored."""
        for row in rows:
            self._unsaved.setdefault(row.id, row if row.id not in self.workers else None)

    # -- questions ---------------------------------------------------------------------------------------------------

    def busy(self, worker_id: WorkerId) -> bool:
        """True if requests are on the worker, as far as we or it know."""
        return worker_id in self.ledger.at or self._working.get(worker_id, 0) > 0

    def reported_at(self, worker_id: WorkerId) -> float:
        """When the worker last reported, or this server began; 0 if never."""
        return self._reported_at.get(worker_id, 0.0)

    def worker_stats(self, worker_id: WorkerId) -> WorkerStats:
        """What the worker told of itself since this server watches it; all 0 if nothing yet."""
        return self._worker_stats.get(worker_id) or WorkerStats(self._born_at)

    def outliers(self, now: float) -> dict[WorkerId, float]:
        """Workers at which requests failed lately, with the seconds of waiting that are held against each."""
        return {i: left_s for i, left_s in self._penalties_s(now).items() if left_s > 0}

    def mean_load(self, worker_id: WorkerId, now: float) -> float:
        """Outstanding work of a worker, as a mean of the last minute or so."""
        there = self.ledger.at.get(worker_id, {}).values()
        return self.worker_stats(worker_id).mean_load(now, ((r.cost, now - r.assigned_at) for r in there))

    def statuses(self) -> str:
        """The breakdown of workers by status, as the wire tells it: `loading: 2, stopped: 1`."""
        counts = Counter(w.status() for w in self.workers.values() if w.status())
        return ", ".join(f"{status}: {n}" for status, n in sorted(counts.items())) or "no workers"

    def spent_usd(self) -> float:
        """Dollars spent until the latest tick or change of state, by every worker that ever was."""
        since_h = max(0.0, self._aged_at - self._accrued_at) / SECONDS_PER_HOUR
        return self.spent_gone_usd + sum(w.spent_usd + w.usd_h() * since_h for w in self.workers.values())

    def _drains(self, worker: Worker, now: float) -> bool:
        """True while requests on the worker should be let finish. A failed one that still reports gets a while."""
        if worker.state is State.ERROR:
            reports = now - self._reported_at.get(worker.id, 0.0) < FAILED_DRAIN_S
            return reports and now - worker.since < FAILED_DRAIN_S and self.busy(worker.id)
        return self.busy(worker.id)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _of(self, group_id: WorkergroupId) -> list[Worker]:
        return [w for w in self.workers.values() if w.group_id == group_id]

    def _restore(self, worker: Worker, now: float) -> None:
        if worker.perf > 0:
            self._estimator.measured(worker)
        if worker.state is State.DESTROYED:
            return
        if worker.state is State.WANTED:
            # Its creation may have been asked for and never answered: look by label before anything else.
            worker = replace(worker, state=State.CREATING)
        if worker.state in STATE_TIMEOUT_S:  # nobody looked meanwhile, so its patience begins anew
            worker = replace(worker, since=now, progressed_at=now)
        if worker.goal is Goal.HOT:  # when it was last asked for is not known: take it to be just now
            self._last_request_at = now
        if worker.state is State.IDLE:  # until it says what it works on, it may be anything
            self._working[worker.id] = 1
        self.workers[worker.id] = worker
        self._reported_at[worker.id] = now

    def _put(self, worker: Worker) -> None:
        if self.workers.get(worker.id) != worker:
            self.workers[worker.id] = worker
            self._unsaved[worker.id] = None

    def _see(self, worker_id: WorkerId, observation: Observation, now: float) -> None:
        worker = self.workers[worker_id]
        state = after_observation(worker.state, observation)
        if state is None:
            self.counters.late_observations += worker.state not in NOTHING_NEW.get(observation, ())
        elif state is not worker.state:
            lost = state in (State.ERROR, State.UNAVAIL, State.DESTROYED) and worker.state in COMING
            if (
                lost and observation is not Observation.FAILED
            ):  # who is to blame for a failed command, `command_answered` was told
                taken_away = observation is Observation.ABSENT
                self._blame(worker, now, "" if taken_away or worker.loaded_at else worker.machine)
            elif state in (State.ERROR, State.DESTROYED) and worker.state in (State.IDLE, State.UNAVAIL):
                self._estimator.failed(worker, now)  # it died at work, or was taken away
            self._enter(worker_id, state, now, observation)

    def _enter(self, worker_id: WorkerId, state: State, now: float, why: Event) -> None:
        self._accrue(now)
        before = self.workers[worker_id]
        worker = replace(before, state=state, since=now, progressed_at=now)
        if why is Observation.REPORTED_READY:
            worker = self._arrived(before, worker, now)
            if before.state is State.UNAVAIL and worker_id in self._worker_stats:
                self._worker_stats[worker_id].away_s += now - before.since
        self._put(worker)
        self.history.moved(now, before, worker, why)
        if state in UPDATING or state in (State.STOPPED, State.DESTROYED):
            self._working.pop(worker_id, None)
            self._outliers.pop(worker_id, None)
            for request in list(self.ledger.at.get(worker_id, {}).values()):
                self._remove(request, now)
        if state is State.DESTROYED:
            self.spent_gone_usd += worker.spent_usd
            self._unsaved[worker_id] = self.workers.pop(worker_id)
            for memory in (self._reported_at, self._reqnum, self._settled_at, self._rests_until, self._progress):
                memory.pop(worker_id, None)
            self._worker_stats.pop(worker_id, None)
            self._in_flight.discard(worker_id)
        self._rebuild_routing()

    def _arrived(self, before: Worker, worker: Worker, now: float) -> Worker:
        if not worker.outdated_at:  # one from an older template says nothing of what the present one makes
            self._group_failures.pop(worker.group_id, None)
        self._estimator.ready(worker)
        returns = before.state is State.STARTING or before.state in UPDATING
        if before.state is State.STARTING:
            self._estimator.started(now - before.since)
            self.traffic_log.start_s.append(now - before.since)
        elif before.loaded_at == 0 and not returns:
            self._estimator.created(worker, now)
            self.traffic_log.create_s.append(now - before.created_at)
        elif not returns:
            return worker  # it was away for a moment and is back: that teaches nothing about starts
        load_s = now - (before.since if returns else before.created_at)
        return replace(worker, loaded_at=worker.loaded_at or now, load_s=load_s, message="")

    def _blame(self, worker: Worker, now: float, machine: str = "") -> None:
        """`machine`: where what the workergroup makes did not come to be ready, if it was tried."""
        group = self._group_failures.get(worker.group_id, Failures())
        machines = group.machines
        if machine and machine not in machines and not same_fault(group):
            machines += (machine,)
        # What began before the last failure is of the same try: where many are made at once, some fail.
        again = not group.count or worker.began_at > group.last_at
        failures = Failures(group.count + again, now if again else group.last_at, machines)
        self._group_failures[worker.group_id] = failures
        if same_fault(failures) and not same_fault(group):
            text = f"workergroup {worker.group_id} failed on {len(machines)} machines: see what its template runs"
            self.history.note(now, Level.INFO0, text, worker)
        self._estimator.failed(worker, now)

    def _note_progress(self, worker_id: WorkerId, source: str, text: str, now: float) -> None:
        if worker_id in self.workers and self._progress.setdefault(worker_id, {}).get(source) != text:
            self._progress[worker_id][source] = text
            self.workers[worker_id] = replace(self.workers[worker_id], progressed_at=now)

    def _reconcile(self, worker_id: WorkerId, report: Report, now: float) -> None:
        """Compares the ledger with what the worker says it works on, for ends that got lost."""
        assert report.working is not None
        for request in list(self.ledger.at.get(worker_id, {}).values()):
            if request.idx in report.working:
                request.seen, request.expires_at = True, now + SEEN_KEPT_S
            elif request.seen:
                self._remove(request, now)
        if now < self.stabilized_at and worker_id in self.workers:  # we began anew while it worked
            for idx in report.working:
                if self.ledger.find(idx) is None and self.ledger.ended(idx) is None:
                    cost = report.cur_load / len(report.working)
                    request = Request(idx, cost, first_at=now, expires_at=now + SEEN_KEPT_S, guessed=True)
                    self._move(request, worker_id, now)
                    request.seen = True

    def _accrue(self, now: float) -> None:
        span_s = now - self._accrued_at
        if span_s > 0:
            self._accrued_at = now
            for worker in self.workers.values():
                self.traffic_log.passed(worker, span_s)
            self.workers = {i: w.with_spend(span_s) for i, w in self.workers.items()}

    def _rebuild_routing(self) -> None:
        """Says anew who takes requests: ready, wanted hot, with an address and a known performance."""
        perf = {
            w.id: w.perf
            for w in self.workers.values()
            if w.state is State.IDLE and w.goal is Goal.HOT and w.url and w.perf > 0
        }
        # How many requests are in service where each goes as fast as alone. Little's law, for one worker.
        self._slots = {w.id: max(1.0, w.perf * self._slot_unit_s) for w in self.workers.values()}
        self._routing.rebuild(perf, {i: self._ahead(i) for i in perf})
