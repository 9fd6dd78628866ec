"""The open requests of one endpoint: where each is, who waits, who is held open, and what is held against workers."""

import math
from collections.abc import Iterable
from itertools import count

from posthouse.domain.demand import Demand
from posthouse.domain.lifecycle import UPDATING, State
from posthouse.domain.reports import Ended, Report
from posthouse.domain.worker import WorkerId
from posthouse.fleet.claims import Claims
from posthouse.fleet.events import Assignment, Counters, Deliver, Level, Moved, Outbox, Outcome, Traffic, Waiting, Wish
from posthouse.fleet.ledger import NOBODY, AtWorker, Ledger, Request
from posthouse.fleet.load import Load
from posthouse.fleet.outliers import Outliers
from posthouse.fleet.roster import Roster
from posthouse.fleet.routing_table import RoutingTable
from posthouse.policy.capacity import ready
from posthouse.policy.faults import resume_at
from posthouse.policy.route import queued_work
from posthouse.policy.trial import CANARY_SHARE, HELD_BACK_S
from posthouse.policy.tuning import TUNING

WAITING_KEPT_S = 20.0
"""How long a waiting request is remembered after it was last asked for. Polling clients ask every 5 s or sooner."""
CLASSIC_KEPT_S = 5.0
"""The same for clients that do not poll: they ask again as another request."""
UNSEEN_S = 5.0
"""How long it counts in full without that: workers tell of a new request within a second."""
UNSEEN_WORK_S = 1.0
"""What it counts at most after that, in seconds of its worker; also once a report does not show it there."""
UNSEEN_KEPT_S = 30.0
"""How long an assigned request is believed in without its worker having seen it."""
SEEN_KEPT_S = 86_400.0
"""How long a request is believed in that its worker says it works on; each report begins it again."""
MAX_MISSES = 32
"""How many in line may be kept from every free worker before looking further is a waste."""
MAX_WAITING = 10_000
"""How many waiting requests are remembered one by one; those beyond are counted as load and must ask again."""
FAULTS = ("", "Error")
"""Words of workers for an end that is their own fault; the older generations have none."""
LEFT = "Cancelled"
"""Their word for an end whose client left."""
DRAIN_ENDED = "its drain is ended with its {} requests: a cap has no money left for it"
SERVES_NOTHING = UPDATING | {State.STOPPED, State.DESTROYED}


class Requests:
    """Every open request of one endpoint, and what it takes to choose a worker for one."""

    def __init__(self, now: float, lives: Roster, traffic: Traffic, counters: Counters, outbox: Outbox) -> None:
        self.ledger, self.load, self.claims = Ledger(int(now * 1000)), Load(now), Claims()
        self.last_request_at = 0.0
        self._lives, self._traffic, self._counters, self._outbox = lives, traffic, counters, outbox
        self.outliers, self._routing = Outliers(lives, outbox), RoutingTable(counters)
        self._canaries: dict[WorkerId, AtWorker] = {}  # that serve beside others
        self._indexes = count(int(now * 1e6) + 1)
        self._ended = frozenset[WorkerId]()
        self._given = self._given_canaries = 0  # requests that were given a worker meanwhile; a canary

    def assign(self, idx: int, cost: float, now: float, polls: bool, hold_s: float, wish: Wish | None) -> Outcome:
        ledger = self.ledger
        if idx in self.outliers.denied:
            return Waiting(0, denied=self.outliers.denied[idx])
        self.last_request_at = now
        request = ledger.open.get(idx) if idx else None
        if ledger.line and (request is None or not request.held_until):
            self.serve(now)  # room that came with time alone is for those that wait already
        if request is None:
            request = self._open(idx, cost, now)
        elif (left := request.worker_id) is not None:
            self.outliers.keep_away(request, left, now)
            ledger.wait(request)
            self._routing.note(ledger.worker(left))
            self._weigh(request)
        request.wish = wish
        if found := self._give(request, now):
            return found
        self._counters.waited += 1
        ledger.wait(request)
        if len(ledger.waiting) > MAX_WAITING:
            self._remove(request, now)
            return Waiting(0)
        request.expires_at = now + hold_s + (WAITING_KEPT_S if polls else CLASSIC_KEPT_S)
        if hold_s > 0:
            ledger.hold(request, now + hold_s)
        return Waiting(request.idx, hold_s > 0)

    def serve(self, now: float) -> None:
        """Offers free workers to those that are held, the one that first came before the others."""
        line, missed, most_s = self.ledger.line, 0, self.claims.scaling.max_queue_time
        while missed < min(len(line), MAX_MISSES) and (not missed or self._routing.free(most_s)):
            request = line[missed]  # one that is kept from the free workers may stand before others
            if found := self._give(request, now):
                self._outbox.append(Deliver(request.idx, found))
            elif request.failures or (request.wish and request.wish.only is not None):
                missed += 1
            else:
                return

    def let_go(self, now: float) -> None:
        """Answers those that have been held long enough that they wait."""
        self._outbox += [Deliver(idx, Waiting(idx)) for idx in self.ledger.over(now)]

    def forget(self, idx: int, now: float) -> None:
        """Drops a request whose client left before it got a worker: nothing was done for it."""
        if (request := self.ledger.open.get(idx)) is not None:
            self._remove(request, now)
            self.ledger.withdraw(request)

    def _open(self, idx: int, cost: float, now: float) -> Request:
        work = self.claims.work(cost)
        if idx == 0:
            idx = next(self._indexes)
            while idx in self.ledger.open:  # from before a restart
                idx = next(self._indexes)
            if self.claims.best_perf:  # before that nobody can tell how much of it to count
                self.load.offered.add(self.claims.load(work), now)
            self._traffic.asked(work, now)
            return Request(idx, work, now, now, cost, unserved=True)
        request = Request(idx, work, now, now, cost)
        if (ended := self.ledger.ended(idx)) is not None:
            ended_at, request.failures, counted = ended
            self.outliers.keep_away(request, ended_at, now, counted)
        return request

    def _give(self, request: Request, now: float) -> Outcome | None:
        """Gives a request the worker that would end it first, if one is free for it.

        None if each is too busy, or it failed there, or twice anywhere, too recently; `Waiting` if it is denied one.
        """
        avoid: tuple[WorkerId, ...] = ()
        if failures := request.failures:
            if why := self.outliers.deny(request):
                self._outbox.say(Level.INFO0, f"request {request.idx}: {why}")
                self._remove(request, now)
                return Waiting(0, denied=why)
            recent = 0
            for worker_id, failed in failures.items():
                recent += failed.last_at > now - TUNING.retry_s
                if resume_at(failed, TUNING.retry_s, TUNING.max_penalty_s) > now:
                    avoid += (worker_id,)
            if (len(avoid) > 1 and recent > 1) or self.outliers.may_kill(request):
                return None
        penalties_s = self.outliers.penalties_s(now) if self.outliers else None
        most_s = self.claims.scaling.max_queue_time
        there = self._routing.pick(request.cost, most_s, request.idx, avoid, penalties_s, request.wish)
        if there is None:
            return None
        if request.unserved:
            request.unserved = False
            if now > request.first_at:
                self._traffic.waited(now - request.first_at, request.cost)
        self.ledger.assign(request, there, now)
        if self._canaries:
            self._given += 1
            self._given_canaries += there.worker_id in self._canaries
            self._hold_back()
        self._routing.note(there)
        request.expires_at = now + (min(SEEN_KEPT_S, 10.0 + 2.0 * there.work / there.perf) if there.mute else UNSEEN_S)
        there.reqnum += 1
        self._counters.routed += 1
        return Assignment(self._lives.workers[there.worker_id], request.idx, there.reqnum)

    def end(self, worker_id: WorkerId, ends: Iterable[Ended], now: float) -> None:
        """Ends requests that this worker has; those that it does not have are counted and ignored."""
        there = self.ledger.at.get(worker_id, NOBODY)
        for ended in ends:
            if (request := there.get(ended.request_idx)) is None:
                self._counters.refused_ends += 1
                continue
            took_s, counted = now - request.assigned_at, 0
            if ended.success:
                if ended.status == LEFT:
                    self.outliers.client_left(worker_id, now)
                else:
                    counted = self.outliers.ended_well(request, worker_id, now)
                    if not request.seen:
                        self.claims.shown(request, there)
                if request.announced > 0 and not ended.session and took_s > 0:
                    work = self.claims.done(request.announced, took_s * there.perf)
                    self.load.served(work, took_s, request.alone)
                    if ended.status != LEFT:
                        self._lives.throughput.done(there, work, took_s)
                    if request.alone:
                        self._traffic.served(work, took_s)
            else:
                self._counters.failed += 1
                text = f"request {request.idx} ended after {took_s:.1f} s: {ended.status or 'failed'}"
                self._outbox.say(Level.DEBUG, text, self._lives.workers.get(worker_id))
                if ended.status in FAULTS:
                    counted = self.outliers.blame(request, worker_id, now, f"failed here {ended.status}", reported=True)
            self._counters.ended += 1
            self.ledger.remove(request, counted, now)
            self._traffic.left(worker_id, request.cost, took_s, now)
            self.last_request_at = now
            if ended.certain:  # nothing to keep away from, should a client use its index once more
                self.ledger.withdraw(request)
        self._routing.note(there)

    def failed(self, idx: int, worker_id: WorkerId, why: str, now: float) -> None:
        """Ends a request that failed at its worker, as its caller saw; one that is not there is counted and ignored.

        It is held against the worker as when the request is asked for again, which then counts no second time.
        """
        if (request := self.ledger.at.get(worker_id, NOBODY).get(idx)) is None:
            self._counters.refused_ends += 1
            return
        self._counters.failed += 1
        self._remove(request, now, self.outliers.blame(request, worker_id, now, f"failed here: {why[:200]}"))

    def reported(self, worker_id: WorkerId, report: Report, now: float, began_again: bool) -> None:
        """Compares the ledger with what a worker works on, for ends that got lost. `began_again`: we, meanwhile."""
        there = self.ledger.worker(worker_id)
        there.mute = report.working is None
        there.working = report.working_count if report.working is None else len(report.working)
        if report.working is None:
            if report.received is not None:
                came, there.received = report.received - there.received, report.received
                for request in there.uncounted(came, now):
                    self._remove(request, now)
            return
        for request in list(there.values()):
            if request.idx in report.working:
                if not request.seen:
                    self._weigh(request)
                    self.claims.shown(request, there)
                request.seen, request.expires_at = True, now + SEEN_KEPT_S
            elif request.seen:
                self._remove(request, now)
            elif now - request.assigned_at >= UNSEEN_S:
                self._weigh(request, self._lives.workers[worker_id].perf * UNSEEN_WORK_S)
        self.claims.counted(there, report.taken)
        for idx in sorted(report.working) if began_again else ():
            if idx not in self.ledger.open and self.ledger.ended(idx) is None:
                cost = report.cur_load / len(report.working)
                request = Request(idx, self.claims.work(cost), now, now + SEEN_KEPT_S, cost)
                self.ledger.assign(request, there, now)
                self._routing.note(there)
                request.seen = True

    def expire(self, now: float) -> None:
        """Lets time pass: requests that nobody asks for or works on any more, failures, what each takes and counts."""
        self.claims.learn(self.ledger.workers.values())
        if self.load.learn(self.ledger.outstanding(), len(self.ledger) - len(self.ledger.waiting)):
            self.membership_changed()
        self.outliers.fade(now)
        self._lives.throughput.judge(self.ledger.at, self.load.slot_unit_s, self.claims.scaling.max_queue_time, now)
        for request in self.ledger.expired(now):
            counted, worker_id = 0, request.worker_id
            mute = worker_id is not None and self.ledger.at[worker_id].mute
            if worker_id is not None and not mute and now < request.assigned_at + UNSEEN_KEPT_S:
                self._weigh(request, self._lives.workers[worker_id].perf * UNSEEN_WORK_S)
                request.expires_at = request.assigned_at + UNSEEN_KEPT_S
                continue
            if worker_id is not None:
                self._counters.expired += 1
                text = f"request {request.idx} was given up, {now - request.assigned_at:.0f} s after it was sent here"
                self._outbox.say(Level.DEBUG, text, self._lives.workers.get(worker_id))
                if not (request.seen or mute):  # its host may neither refuse nor answer
                    counted = self.outliers.blame(request, worker_id, now, "never came here")
            self._remove(request, now, counted)

    def keeps(self, worker_id: WorkerId) -> bool:
        """True if the worker finishes what is on it before it goes."""
        return worker_id not in self._ended and self.busy(worker_id)

    def busy(self, worker_id: WorkerId) -> bool:
        """True if requests are on the worker, as far as we or it know."""
        return worker_id in self.ledger.at or self.ledger.worker(worker_id).working > 0

    def end_drains(self, worker_ids: frozenset[WorkerId]) -> None:
        """Lets these workers go with what is on them, and no others."""
        for worker in [self._lives.workers[i] for i in sorted(worker_ids - self._ended)]:
            self._outbox.say(Level.INFO0, DRAIN_ENDED.format(self.load_at(worker.id)[1]), worker)
        self._ended = worker_ids

    def worker_moved(self, moved: Moved, now: float) -> None:
        """A worker changed its state: where it serves nothing any more, what it had is over."""
        self.outliers.moved(moved, now)
        if (worker := moved.after).state not in SERVES_NOTHING:
            return
        there = self.ledger.worker(worker.id)
        there.working, there.received, there.units_s = 0, 0, None
        self.outliers.forget(worker.id)
        for request in list(there.values()):
            request.seen = False  # nothing was done for it that counts
            self._remove(request, now)
        if worker.state is State.DESTROYED:
            del self.ledger.workers[worker.id]

    def membership_changed(self) -> None:
        """Finds out who takes requests: ready, wanted hot, with an address and a known performance."""
        workers, claims = self._lives.workers, self.claims
        known, claims.best_perf = claims.best_perf, max(self._lives.estimator.perf().values(), default=claims.best_perf)
        if claims.best_perf and not known:  # only now is it known how large they may be
            for request in self.ledger.waiting.values():
                request.cost = claims.work(request.announced)
                self.load.offered.add(claims.load(request.cost), request.first_at)
        for worker in workers.values():
            there = self.ledger.worker(worker.id)
            there.row, there.perf, there.held_back = -1, worker.perf, 0.0
            there.slots = max(1.0, worker.perf * self.load.slot_unit_s)  # Little's law, for one worker
        takes = [w for w in ready(workers.values()) if w.url]
        canaries = {w.id: self.ledger.worker(w.id) for w in takes if self._lives.rollouts.of(w).canary_is(w)}
        self._canaries = canaries if len(canaries) < len(takes) else {}
        self._hold_back()
        self._routing.rebuild([self.ledger.worker(w.id) for w in takes])

    def _hold_back(self) -> None:
        held_back_s = HELD_BACK_S if self._given_canaries > CANARY_SHARE * self._given else 0.0
        for there in self._canaries.values():
            there.held_back = held_back_s * there.perf
            self._routing.note(there)

    def load_at(self, worker_id: WorkerId) -> tuple[float, int]:
        """Work and number of the requests at a worker."""
        there = self.ledger.at.get(worker_id, NOBODY)
        return there.work, len(there)

    def demand(self, now: float) -> Demand:
        queued = sum([queued_work(there.work, len(there), there.slots) for there in self.ledger.at.values()])
        return self.load.demand(self.ledger, self.claims, queued, self.last_request_at, now)

    def _weigh(self, request: Request, most: float = math.inf) -> None:
        """Counts a request again, as at most so much."""
        cost = min(self.claims.work(request.announced), most)
        if request.worker_id is not None:
            there = self.ledger.at[request.worker_id]
            there.work = max(0.0, there.work + cost - request.cost)
            self._routing.note(there)
        request.cost = cost

    def _remove(self, request: Request, now: float, counted: int = 0) -> None:
        there = None if request.worker_id is None else self.ledger.at[request.worker_id]
        if request.unserved:
            request.unserved = False
            self._traffic.gave_up(request.cost)
        self.ledger.remove(request, counted, now)
        if there is not None:
            self._traffic.left(there.worker_id, request.cost, now - request.assigned_at, now)
            self.last_request_at = now
            self._routing.note(there)
