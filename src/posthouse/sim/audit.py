"""What must hold in every world, looked at after every event, at a cost that does not grow with the world.

The auditor keeps its own account of who asked for what, from the calls below and not from what the fleet says, and
compares. It looks only at the workers that an event touched.
"""

from collections.abc import Callable, Collection
from math import fsum

from posthouse.domain.lifecycle import BILLED_AS, COMING, Command, Goal, State
from posthouse.domain.offer import SECONDS_PER_HOUR
from posthouse.domain.worker import Worker, WorkerId, price_in
from posthouse.errors import PosthouseError
from posthouse.fleet.controller import Controller
from posthouse.fleet.events import Assignment, Waiting
from posthouse.fleet.ledger import NOBODY, Request

REST_S = 900.0
"""Without a request and a disturbance for this long, an endpoint is at rest: nothing is begun any more. Cold workers
may still go, when what was needed in all has been held long enough."""
BILL_S = 60.0
"""How often the whole bill is compared."""
ROUNDING = 1e-6
"""Largest share by which sums of floats may differ."""


class BrokenRule(PosthouseError):
    """Something happened that never may. The text names the rule, the moment, and the command that repeats it."""


class Auditor:
    """Checks one world."""

    def __init__(self, fleet: Controller, now: float, seed: int, repeat: str) -> None:
        self.state_s: dict[State, float] = dict.fromkeys(State, 0.0)
        """Worker-seconds in each state."""
        self.usd = 0.0
        """What the time in each state came to, by the price of each worker."""
        self.ready_work = 0.0
        """What ready workers could have done."""
        self._fleet = fleet
        self._began_at = now
        self._seed, self._repeat = seed, repeat
        self._at: dict[WorkerId, dict[int, Request]] = {}
        self._waiting: dict[int, Request] = {}
        self._where: dict[int, WorkerId | None] = {}
        self._life: dict[WorkerId, tuple[Worker, float]] = {}
        self._touched: set[WorkerId] = set()
        self._all = self._ticked = False
        self._made: set[str] = set()
        self._most = 0
        self._left_from: dict[WorkerId, State] = {}
        self._asked_at = self._disturbed_at = self._billed_at = now
        self._begun_at_rest = 0
        self._other_usd = fleet.spent_usd(now)
        self.working: Callable[[str], Collection[int]] = lambda label: ()
        """The requests that the instance with this label has, in truth."""

    # -- what happened -------------------------------------------------------------------------------------------------

    def touch(self, worker_id: WorkerId) -> None:
        """Something happened to this worker."""
        self._touched.add(worker_id)

    def touch_all(self) -> None:
        """Something happened that may concern any worker."""
        self._all = True

    def ticked(self) -> None:
        """The control loop ticked: whatever happened, the fleet has added up its money."""
        self._all = self._ticked = True

    def disturb(self, now: float) -> None:
        """Something failed or was changed: an endpoint may answer to that."""
        self._disturbed_at, self._begun_at_rest = now, 0

    def asked(self, idx: int, cost: float, outcome: Assignment | Waiting, now: float) -> None:
        """A request was asked for: with index `idx`, 0 for a new one."""
        self._asked_at, self._begun_at_rest = now, 0
        self._take_away(idx)
        if isinstance(outcome, Waiting):
            request = self._fleet.ledger.open.get(outcome.request_idx)
            if request is not None:
                self._where[request.idx] = None
                self._waiting[request.idx] = request
            elif outcome.request_idx:
                self._break("every request has one place", f"request {outcome.request_idx} waits and is in no ledger")
            return
        idx, worker_id = outcome.request_idx, outcome.worker.id
        worker = self._fleet.workers.get(worker_id)
        if worker is None or worker.state is not State.IDLE or worker.goal is not Goal.HOT:
            seen = "gone" if worker is None else f"{worker.state}, wanted {worker.goal}"
            self._break("only ready and wanted workers get requests", f"request {idx} went to {worker_id}, {seen}")
        request = self._fleet.ledger.open.get(idx)
        if request is None or request.worker_id != worker_id:
            self._break("every request has one place", f"request {idx} went to {worker_id}, and no ledger has it there")
        assert request is not None
        if request.announced != cost and idx not in self._where and cost >= 0:
            said = f"request {idx} of {cost:g} is taken for one of {request.announced:g}"
            self._break("outstanding work is that of open requests", said)
        self._where[idx] = worker_id
        self._at.setdefault(worker_id, {})[idx] = request
        self._touched.add(worker_id)

    def ended(self, worker_id: WorkerId, idx: int) -> None:
        """A worker reported that a request has ended."""
        if self._where.get(idx, None) == worker_id:
            self._take_away(idx)

    def forgotten(self, idx: int) -> None:
        """The server learned that the client of a request has left."""
        if idx in self._waiting:
            self._take_away(idx)

    def ordered(self, worker: Worker, command: Command, now: float) -> None:
        """A command was given to a worker that was in this state."""
        self._left_from[worker.id] = worker.state
        if command in (Command.STOP, Command.DESTROY, Command.UPDATE):
            if worker.state is State.IDLE and self._has_open(worker, now):
                self._break("a busy worker is not stopped", f"{command} worker {worker.id}, which has requests")
            return
        if now - max(self._asked_at, self._disturbed_at) > REST_S:
            self._begun_at_rest += 1
            if self._begun_at_rest > self._fleet.endpoint.scaling.max_workers:
                quiet_s = now - max(self._asked_at, self._disturbed_at)
                self._break("no flapping at rest", f"{command} after {quiet_s:.0f} s in which nothing happened")

    def _has_open(self, worker: Worker, now: float) -> bool:
        """True if a request is at the worker; one that this very tick gave up counts only while it is truly there."""
        at = self._at.get(worker.id, {}).items()
        return any(request.expires_at > now or idx in self.working(worker.label) for idx, request in at)

    def made(self, label: str) -> None:
        """A provider made an instance with this label."""
        if label in self._made:
            self._break("one intent, one instance", f"a second instance was made for {label}")
        self._made.add(label)

    def cut_off(self, worker_id: WorkerId, requests: int) -> None:
        """A stop or a destruction took effect while the worker had requests."""
        if requests and self._left_from.get(worker_id) is State.IDLE:
            self._break("a busy worker is not stopped", f"worker {worker_id} was, with {requests} requests")

    def adopt(self, fleet: Controller, now: float) -> None:
        """The control plane has started over, or its workers were changed by hand: from here on its bill is another."""
        if fleet is not self._fleet:
            self._at, self._waiting, self._where = {}, {}, {}
            self._most = len(fleet.workers)  # also those that went after they were last written down
        self._fleet = fleet
        self._life = {w.id: (w, now) for w in fleet.workers.values()}
        self._other_usd = fleet.spent_usd(now) - self.usd
        self.disturb(now)

    # -- what it checks ------------------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Compares what the last event touched. Raises: BrokenRule."""
        ledger = self._fleet.ledger
        if self._all:
            self._check_all_workers()
        for worker_id in self._touched:
            self._check_worker(worker_id, now)
        if len(ledger.waiting) != len(self._waiting):
            for idx in [i for i in self._waiting if i not in ledger.waiting]:
                if self._waiting[idx].expires_at > now:
                    self._break("every request has one place", f"request {idx} waits and was forgotten", now)
                self._take_away(idx)
        if len(ledger) != len(self._where):
            said = f"{len(ledger)} requests are in the ledger, {len(self._where)} are open"
            self._break("outstanding work is that of open requests", said, now)
        if self._all:
            self._check_numbers(now)
        self._touched.clear()
        self._all = self._ticked = False

    def _check_all_workers(self) -> None:
        """Looks at every worker, but counts the work only of those whose requests changed."""
        at, workers, nothing = self._fleet.ledger.at, self._fleet.workers, ()
        for worker_id, worker in workers.items():
            before = self._life.get(worker_id)
            same = before is not None and before[0].state is worker.state and before[0].price == worker.price
            if not same or len(at.get(worker_id, nothing)) != len(self._at.get(worker_id, nothing)):
                self._touched.add(worker_id)
        if len(self._life) != len(workers):
            self._touched.update(self._life.keys() - workers.keys())

    def _check_worker(self, worker_id: WorkerId, now: float) -> None:
        worker = self._fleet.workers.get(worker_id)
        self._bill(worker_id, worker, now)
        there, mine = self._fleet.ledger.at.get(worker_id, NOBODY), self._at.get(worker_id, {})
        if there.keys() != mine.keys():
            self._reconcile(worker_id, worker, there, now)
        work, true_work = there.work, fsum(r.cost for r in there.values())
        if work < 0 or abs(work - true_work) > ROUNDING * (1 + true_work):
            said = f"worker {worker_id} has {work:g} work outstanding, its open requests are {true_work:g}"
            self._break("outstanding work is that of open requests", said, now)

    def _reconcile(self, worker_id: WorkerId, worker: Worker | None, there: dict[int, Request], now: float) -> None:
        """Explains requests that came or went without a call for it, or finds no explanation."""
        lost = worker is None or worker.state in (State.STOPPED, State.DESTROYED)
        for idx, request in list(self._at.get(worker_id, {}).items()):
            if idx not in there:
                label = worker.label if worker is not None else ""
                if not lost and request.expires_at > now and idx in self.working(label):
                    self._break(
                        "every request has one place", f"request {idx} is at {worker_id} and was forgotten", now
                    )
                self._take_away(idx)
        for idx, request in there.items():
            if idx not in self._at.get(worker_id, {}):
                if now >= self._fleet.stabilized_at:
                    self._break("every request has one place", f"request {idx} at {worker_id} came from nowhere", now)
                self._take_away(idx)
                self._where[idx] = worker_id
                self._at.setdefault(worker_id, {})[idx] = request

    def _check_numbers(self, now: float) -> None:
        number, most = len(self._fleet.workers), self._fleet.endpoint.scaling.max_workers
        if number > max(most, self._most):
            self._break("never above max_workers", f"{number} workers, {most} are allowed", now)
        self._most = number  # after max_workers was lowered, it may only shrink
        decision, cap = self._fleet.decision, self._fleet.endpoint.scaling.max_usd_h
        if cap is not None and self._ticked and decision is not None and decision.at == now:
            usd_h = sum(map(_wanted_usd_h, self._fleet.workers.values()))
            if usd_h > cap * (1 + ROUNDING) + ROUNDING:
                self._break("never above max_usd_h", f"${usd_h:g} an hour are wanted, {cap:g} are allowed", now)
        if self._ticked and now - self._billed_at >= BILL_S:
            self._check_bill(now)

    def close_bill(self, now: float) -> None:
        """Bills every worker up to now."""
        for worker_id in list(self._life):
            self._bill(worker_id, self._fleet.workers.get(worker_id), now, closing=True)

    def _check_bill(self, now: float) -> None:
        self._billed_at = now
        self.close_bill(now)
        spent_usd = self._fleet.spent_usd(now) - self._other_usd
        if abs(spent_usd - self.usd) > ROUNDING * (1e-3 + self.usd):
            said = f"${spent_usd:.9f} was spent, the time billed comes to ${self.usd:.9f}"
            self._break("money spent is time billed", said, now)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _bill(self, worker_id: WorkerId, worker: Worker | None, now: float, closing: bool = False) -> None:
        before = self._life.get(worker_id)
        if before is not None:
            was, since = before
            if worker is not None and worker.state is was.state and worker.price == was.price and not closing:
                return
            span_s = now - since
            self.state_s[was.state] += span_s
            if was.state is State.IDLE:
                self.ready_work += was.perf * span_s
            self.usd += price_in(was.price, BILLED_AS[was.state]) * span_s / SECONDS_PER_HOUR
        if worker is None:
            self._life.pop(worker_id, None)
            return
        if worker.state in (State.ERROR, State.UNAVAIL) and (before is None or before[0].state is not worker.state):
            self.disturb(now)
        self._life[worker_id] = worker, now

    def _take_away(self, idx: int) -> None:
        """Takes a request out of the auditor's account, wherever it is."""
        if idx not in self._where:
            return
        worker_id = self._where.pop(idx)
        if worker_id is None:
            del self._waiting[idx]
            return
        there = self._at[worker_id]
        del there[idx]
        if not there:
            del self._at[worker_id]
        self._touched.add(worker_id)

    def _break(self, rule: str, said: str, now: float | None = None) -> None:
        at = f" at {now - self._began_at:.3f} s" if now is not None else ""
        again = f"; repeat it with: {self._repeat}" if self._repeat else f"; seed {self._seed}"
        raise BrokenRule(f"broken rule{at}: {rule}: {said}{again}")


def _wanted_usd_h(worker: Worker) -> float:
    """What a worker costs an hour where its goal takes it."""
    if worker.goal is Goal.GONE:
        return 0.0
    runs = worker.goal is not Goal.COLD or worker.state in COMING - {State.STARTING}
    return worker.price.running_usd_h if runs else min(worker.price.stopped_usd_h, worker.price.running_usd_h)
