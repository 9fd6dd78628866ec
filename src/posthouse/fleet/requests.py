"""The open requests of one endpoint: where each is, who waits, who is held open, and what is held against workers."""

from collections.abc import Collection
from itertools import islice

from posthouse.domain.demand import Demand
from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.reports import Ended, Report
from posthouse.domain.worker import WorkerId
from posthouse.fleet.events import Assignment, Counters, Deliver, Level, Outbox, Traffic, Waiting
from posthouse.fleet.ledger import Ledger, Request
from posthouse.fleet.line import MISSES, Line, Offer
from posthouse.fleet.meter import Meter
from posthouse.fleet.outliers import Outliers, Workers
from posthouse.fleet.routing_table import RoutingTable
from posthouse.fleet.service import ServiceTimes
from posthouse.policy.faults import resume_at
from posthouse.policy.route import queued_work, work_ahead
from posthouse.policy.tuning import TUNING

WAITING_KEPT_S = 20.0
"""How long a waiting request is remembered after it was last asked for. Polling clients ask every 5 s or sooner."""
CLASSIC_KEPT_S = 5.0
"""The same for clients that do not poll: they ask again as another request."""
UNSEEN_KEPT_S = 30.0
"""How long an assigned request is believed in without its worker having seen it."""
SEEN_KEPT_S = 86_400.0
"""How long a request is believed in that its worker says it works on; each report begins it again."""
OVERTAKEN_S = 30.0
"""A request that came this much later does not take the last room from one that waits, even while that one's client
sleeps. With less, rooms would stand empty in an overload that is fair anyway; people wait for about a minute."""
ASLEEP_S = 10.0
"""How long after it asked a polling client is believed to come back: it is held for up to 4 s, and sleeps up to 5."""
MAX_WAITING = 10_000
"""How many waiting requests are remembered one by one; those beyond are counted as load and must ask again."""


class Requests:
    """Every open request of one endpoint, and what it takes to choose a worker for one."""

    def __init__(self, now: float, lives: Workers, traffic: Traffic, counters: Counters, outbox: Outbox) -> None:
        self.ledger, self.line = Ledger(), Line()
        self.max_queue_s = 0.0
        """The wait above which a worker gets no request."""
        self.last_request_at = 0.0
        self._lives, self._traffic, self._counters, self._outbox = lives, traffic, counters, outbox
        self._outliers = Outliers(lives, outbox)
        self._routing = RoutingTable()
        self._meter = Meter(now)
        self._next_idx = int(now * 1e6)
        self._first_reqnum = int(now * 1000) + 1
        self._reqnum: dict[WorkerId, int] = {}
        self._working: dict[WorkerId, int] = {}
        self._mute: set[WorkerId] = set()  # those whose generation does not say what it works on
        self._services = ServiceTimes()
        self._slots: dict[WorkerId, float] = {}

    # -- what clients ask ----------------------------------------------------------------------------------------------

    def assign(self, idx: int, cost: float, now: float, polls: bool, hold_s: float) -> Assignment | Waiting:
        """See `Controller.assign`."""
        if self.line and idx not in self.line and self.has_room(cost, now):
            self.serve(now)  # room that came with time alone is for those that wait already
        self.last_request_at = now
        request = self.ledger.find(idx) if idx else None
        if request is None:
            request = self._open(idx, cost, now)
        else:
            if request.guessed:
                self.ledger.weigh(request, cost)
            if request.worker_id is not None:
                self._outliers.keep_away(request, request.worker_id, now)
        if found := self._give(request, now):
            self.line.leave(request.idx)
            return found
        self._counters.waited += 1
        if request.idx not in self.ledger.waiting and len(self.ledger.waiting) >= MAX_WAITING:
            self._remove(request, now)
            return Waiting(0)
        kept_s = max(WAITING_KEPT_S, hold_s + ASLEEP_S) if polls else max(CLASSIC_KEPT_S, hold_s)
        self.ledger.keep(request, now + kept_s)
        self._move(request, None, now)
        if hold_s > 0:
            self.line.join(request.idx, request.first_at, now + hold_s)
        return Waiting(request.idx, hold_s > 0)

    def serve(self, now: float) -> None:
        """Offers free workers to those that are held, the one that first came before the others."""

        def give(idx: int) -> Offer:
            request = self.ledger.waiting.get(idx)
            outcome = Waiting(idx) if request is None else self._give(request, now)
            if outcome is not None:
                self._outbox.append(Deliver(idx, outcome))
                return Offer.TAKEN
            return Offer.MISSED if request is not None and request.failures else Offer.NO_ROOM

        self.line.offer(give)

    def let_go(self, now: float) -> None:
        """Tells those that have been held long enough that they wait."""
        self._outbox += [Deliver(idx, Waiting(idx)) for idx in self.line.over(now)]

    def release(self) -> None:
        """Tells everybody who is held that they wait."""
        self._outbox += [Deliver(idx, Waiting(idx)) for idx in self.line.clear()]

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

    def has_room(self, cost: float, now: float) -> bool:
        """True if a new request would get a worker now."""
        return self._free_worker(cost, 0, now) is not None

    def _open(self, idx: int, cost: float, now: float) -> Request:
        if idx == 0:
            idx = self._next_idx = self._next_idx + 1
            while self.ledger.find(idx) is not None:  # taken by one of before a restart
                idx = self._next_idx = self._next_idx + 1
            self._meter.add(cost, now)
            self._traffic.asked(cost, now)
            return Request(idx, cost, now, now, unserved=True)
        request = Request(idx, cost, now, now)
        if (ended := self.ledger.ended(idx)) is not None:
            ended_at, request.failures, counted = ended
            self._outliers.keep_away(request, ended_at, now, counted)
        return request

    def _give(self, request: Request, now: float) -> Assignment | None:
        """Gives a request a worker, if one is free for it that is not kept for an older one."""
        worker_id = self._pick(request, now)
        if worker_id is None or (self.ledger.waiting and self._overtakes(request, worker_id, now)):
            return None
        if request.unserved:
            request.unserved = False
            if now > request.first_at:
                self._traffic.waited(now - request.first_at, request.cost)
        worker, request.expires_at = self._lives.workers[worker_id], now + UNSEEN_KEPT_S
        if worker_id in self._mute:  # expect it done by then
            work = self.ledger.work.get(worker_id, 0.0) + request.cost
            request.expires_at = now + min(SEEN_KEPT_S, 10.0 + 2.0 * work / worker.perf)
        self._move(request, worker_id, now)
        reqnum = self._reqnum[worker_id] = self._reqnum.get(worker_id, self._first_reqnum - 1) + 1
        self._counters.routed += 1
        return Assignment(worker, request.idx, reqnum)

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
        penalties_s = self._outliers.penalties_s(now) if self._outliers else None
        return self._routing.pick(cost, self.max_queue_s, idx, avoid, penalties_s)

    def _overtakes(self, request: Request, worker_id: WorkerId, now: float) -> bool:
        """True if `request` would take the last room from one that came `OVERTAKEN_S` earlier and waits.

        Who is held is offered first; this is for those that sleep between two polls. Less than `MISSES` may be before
        them that may not go there, or do not come back.
        """
        for older in islice(self.ledger.waiting.values(), MISSES):
            awaited = older.expires_at - now > WAITING_KEPT_S - ASLEEP_S
            if awaited and request.first_at - older.first_at >= OVERTAKEN_S and self._pick(older, now) is not None:
                work, count = self.load_at(worker_id)
                ahead = work_ahead(work + request.cost, count + 1, self._slots.get(worker_id, 1.0))
                stays_free = self._routing.has_room_after(worker_id, ahead, self.max_queue_s)
                return not stays_free and self._pick(older, now, besides=worker_id) is None
        return False

    # -- what workers and callers tell ---------------------------------------------------------------------------------

    def end(self, worker_id: WorkerId, ended: Ended, now: float) -> None:
        """Ends a request that this worker has; one that it does not have is counted and ignored."""
        request = self.ledger.find(ended.request_idx)
        if request is None or request.worker_id != worker_id:
            self._counters.refused_ends += 1
            return
        self._remove(request, now, self._outliers.judge(request, worker_id, ended, now))
        self._counters.ended += 1
        if not ended.success:
            self._counters.failed += 1
            status = ended.status or "failed"
            text = f"request {ended.request_idx} ended after {now - request.assigned_at:.1f} s: {status}"
            self._outbox.say(Level.DEBUG, text, self._lives.workers.get(worker_id))
        elif request.cost > 0 and not ended.session:
            took_s = now - request.assigned_at
            self._services.add(request.cost, took_s, request.alone)
            if request.alone:
                self._traffic.served(request.cost, took_s)

    def failed(self, idx: int, worker_id: WorkerId, why: str, now: float) -> None:
        """Ends a request that failed at its worker, as its caller saw; one that is not there is counted and ignored.

        It is held against the worker as when the request is asked for again, which then counts no second time.
        """
        request = self.ledger.find(idx)
        if request is None or request.worker_id != worker_id:
            self._counters.refused_ends += 1
            return
        once = 0 if worker_id in request.failures else 1
        self._outliers.hold_against(worker_id, once, now, f"request {idx} failed here: {why[:200]}")
        self._remove(request, now, once)
        self._counters.failed += 1

    def reported(self, worker_id: WorkerId, report: Report, now: float, began_again: bool) -> None:
        """Compares the ledger with what a worker says it works on, for ends that got lost.

        `began_again`: we did, while it worked.
        """
        self._working[worker_id] = len(report.working) if report.working is not None else report.working_count
        if report.working is None:
            self._mute.add(worker_id)
            return
        self._mute.discard(worker_id)
        for request in list(self.ledger.at.get(worker_id, {}).values()):
            if request.idx in report.working:
                request.seen, request.expires_at = True, now + SEEN_KEPT_S
            elif request.seen:
                self._remove(request, now)
        if not began_again:
            return
        for idx in sorted(report.working):
            if self.ledger.find(idx) is None and self.ledger.ended(idx) is None:
                cost = report.cur_load / len(report.working)
                request = Request(idx, cost, first_at=now, expires_at=now + SEEN_KEPT_S, guessed=True)
                self._move(request, worker_id, now)
                request.seen = True

    def expire(self, now: float) -> None:
        """Lets time pass: requests that nobody asks for or works on any more, failures, how long requests take."""
        if self._services.learn(self.ledger.outstanding(), len(self.ledger) - len(self.ledger.waiting)):
            self.membership_changed()
        self._outliers.fade(now)
        for request in self.ledger.expired(now):
            counted = 0
            if request.worker_id is not None:
                self._counters.expired += 1
                text = f"request {request.idx} was given up, {now - request.assigned_at:.0f} s after it was sent here"
                self._outbox.say(Level.DEBUG, text, self._lives.workers.get(request.worker_id))
                if request.worker_id not in self._mute:
                    counted = self._outliers.judge_lost(request, request.worker_id, now)
            self._remove(request, now, counted)

    # -- what becomes of workers ---------------------------------------------------------------------------------------

    def busy(self, worker_id: WorkerId) -> bool:
        """True if requests are on the worker, as far as we or it know."""
        return worker_id in self.ledger.at or self._working.get(worker_id, 0) > 0

    def may_be_busy(self, worker_id: WorkerId) -> None:
        """The worker worked before this server began: until it says what it works on, it may be anything."""
        self._working[worker_id] = 1

    def worker_left(self, worker_id: WorkerId, now: float, for_good: bool) -> None:
        """A worker serves nothing any more: what it had is over. `for_good`: it will never be back."""
        self._working.pop(worker_id, None)
        self._outliers.pop(worker_id, None)
        for request in list(self.ledger.at.get(worker_id, {}).values()):
            self._remove(request, now)
        if for_good:
            self._reqnum.pop(worker_id, None)
            self._mute.discard(worker_id)

    def membership_changed(self) -> None:
        """Finds out who takes requests: ready, wanted hot, with an address and a known performance."""
        workers = self._lives.workers
        perf = {
            w.id: w.perf
            for w in workers.values()
            if w.state is State.IDLE and w.goal is Goal.HOT and w.url and w.perf > 0
        }
        # How many requests are in service where each goes as fast as alone. Little's law, for one worker.
        self._slots = {w.id: max(1.0, w.perf * self._services.slot_unit_s) for w in workers.values()}
        self._routing.rebuild(perf, {i: self._ahead(i) for i in perf})

    # -- questions -----------------------------------------------------------------------------------------------------

    def load_at(self, worker_id: WorkerId) -> tuple[float, int]:
        """Work and number of the requests at a worker."""
        return self.ledger.work.get(worker_id, 0.0), len(self.ledger.at.get(worker_id, ()))

    def outliers(self, now: float) -> dict[WorkerId, float]:
        """Workers at which requests failed lately, with the penalty of each in seconds."""
        return {i: left_s for i, left_s in self._outliers.penalties_s(now).items() if left_s > 0}

    def demand(self, now: float) -> Demand:
        """What is asked of the endpoint now."""
        queued = sum(queued_work(*self.load_at(i), self._slots.get(i, 1.0)) for i in self.ledger.at)
        return self._meter.demand(self.ledger, queued, self._services.service_s, self.last_request_at, now)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _ahead(self, worker_id: WorkerId) -> float:
        """Work at a worker before it can begin with another request."""
        there = self.ledger.at.get(worker_id)
        if there is None:
            return 0.0
        return work_ahead(self.ledger.work[worker_id], len(there), self._slots.get(worker_id, 1.0))

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
            self._traffic.left(left, request.cost, now - request.assigned_at, now)
            self.last_request_at = now
            self._routing.set_work(left, self._ahead(left))

    def _count_out(self, request: Request) -> None:
        if request.unserved:
            request.unserved = False
            self._traffic.gave_up(request.cost)
