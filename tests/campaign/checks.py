"""What must hold in every world. Each check compares what the engine says with what the campaign knows by itself."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import Any

from posthouse.domain.endpoint import EndpointId, EndpointState
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Command, Event, Goal, Observation, State
from posthouse.domain.offer import SECONDS_PER_HOUR
from posthouse.domain.reports import Ended, Report
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine.hub import Hub
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.orphans import NOBODY
from posthouse.errors import PosthouseError
from posthouse.fleet.controller import Controller
from posthouse.fleet.events import Asked, Assignment, Deliver, Effect, Moved, Ticked
from posthouse.fleet.requests import UNSEEN_KEPT_S
from posthouse.policy.draft import committed_usd_h
from posthouse.policy.release import last_stays_s
from posthouse.wire.route import RouteReply
from tests.campaign.world import SimInstance, World

ROUNDING = 1e-6
"""Largest share by which sums of floats may differ."""
REPORTS_S = 50.0
"""An instance that was heard within this time is there: some reports are lost, and some come late."""
UNSAVED_S = 150.0
"""A crash may lose what changed in that time: a tick may come a minute late, and each of its writes may be slow."""


class Broken(PosthouseError):
    """A rule does not hold. The text names it, and the moment."""


@dataclass(slots=True)
class _Bill:
    """What an endpoint has spent, counted from each change of each worker's state."""

    usd: float
    since: dict[WorkerId, tuple[float, float]] = field(default_factory=dict)
    """Dollars per hour, and since when, on the engine's clock."""
    seen: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=200))
    """(virtual time, time of the engine's clock, dollars)."""

    def usd_at(self, now: float) -> float:
        return self.usd + fsum(rate * (now - at) / SECONDS_PER_HOUR for rate, at in self.since.values())


class Checks:
    """The rules, over all lives of the server in one world."""

    def __init__(self) -> None:
        self.looks = 0
        self.found: Broken | None = None
        """The first rule that was broken: the engine itself bears any exception, as it should."""
        self._most: dict[EndpointId, int] = {}
        self._allowed: dict[EndpointId, int] = {}
        self._reqnums: dict[str, int] = {}
        self._bills: dict[EndpointId, _Bill] = {}
        self._bills_before: dict[EndpointId, _Bill] = {}
        self._usd_h: dict[EndpointId, float] = {}
        """What each endpoint may come to cost per hour, when it last decided."""
        self.exchanged_s = -1e9
        """When another worker was last begun to do for less what one that serves does."""
        self._store_failed_s = -1e9
        self._ended_s = 0.0
        self._watched: dict[EndpointId, ManagedEndpoint] = {}
        self._told: dict[str, float] = {}
        """When the present server was last told something, by instance."""
        self._going: set[str] = set()
        """Instances of which there was another with the same label when they were destroyed as nobody's."""
        self.adopted: set[str] = set()
        """Labels of workers that an operator took in again: what they cost was not known."""

    def broken(self, rule: str, said: str) -> None:
        error = Broken(f"at {self._world.loop.time():.3f} s: {rule}: {said}")
        self.found = self.found or error
        raise error

    # -- lives of the server -----------------------------------------------------------------------------------------

    def begin(self, hub: Hub, world: World) -> None:
        """The server has begun a life."""
        self._hub, self._world = hub, world
        world.broken = self.broken
        self._bills, self._watched, self._told, self._usd_h = {}, {}, {}, {}
        for instance in world.all_instances.values():
            instance.known, instance.heard = {}, False
        for endpoint_id, managed in hub.endpoints.items():
            self._watch(managed)
            # What was looked at last may never have been written down.
            self._most[endpoint_id] = len(managed.fleet.workers)
            if before := self._bills_before.get(endpoint_id):
                self._compare_lives(managed.fleet, before)

    def end(self) -> None:
        """The server's life is over."""
        if self._bills:
            self._bills_before = self._bills
            self._bills = {}
            self._ended_s = self._world.loop.time()

    def store_restored(self) -> None:
        """What was written since a backup is lost: what was spent, and which numbers were given."""
        self._bills_before = {}
        self._reqnums = {}

    def orphan_destroyed(self, instance: Instance) -> None:
        """An instance is destroyed as one that nobody owns. One that serves is adopted and drained instead."""
        self._world.counts["orphans destroyed"] += 1
        there = self._world.all_instances.values()
        real = self._world.all_instances.get(instance.id)
        if real is not None and any(other.label == real.label and other is not real for other in there):
            self._going.add(real.id)
        if real is None or real.id in self._going:
            return  # gone, or made twice; and then it is destroyed again until it is gone
        if real.serves and self._world.loop.time() - self._told.get(real.id, -1e9) < REPORTS_S:
            self.broken("no kill of what serves", f"orphan {real.id} is destroyed, which reports and serves")

    def told(self, instance: SimInstance) -> None:
        """The present server is told something by an instance, whether it knows it or not."""
        self._told[instance.id] = self._world.loop.time()

    def store_failed(self) -> None:
        self._store_failed_s = self._world.loop.time()

    def _compare_lives(self, fleet: Controller, before: _Bill) -> None:
        """What was spent is neither forgotten nor counted twice over a crash."""
        saved_s = self._ended_s - UNSAVED_S
        if not before.seen or self._store_failed_s >= saved_s:
            return
        now = self._hub.clock.now()
        usd, usd_h = fleet.spent_usd(now), sum(w.price.ready_usd_h for w in fleet.workers.values())
        since = next((now for at, now, _ in before.seen if at >= saved_s), before.seen[-1][1])
        # What was not written down any more may have changed what is paid.
        most = before.usd_at(now) + usd_h * max(0.0, now - since) / SECONDS_PER_HOUR
        endpoint_id = fleet.endpoint.id
        if usd > most * (1 + ROUNDING) + ROUNDING:
            self.broken(
                "spend is time billed", f"endpoint {endpoint_id}: ${usd:.6f} after a crash, at most ${most:.6f}"
            )
        saved = [spent for at, _, spent in before.seen if at < saved_s]
        if saved and usd < saved[-1] * (1 - ROUNDING) - ROUNDING:
            self.broken(
                "spend is time billed", f"endpoint {endpoint_id} forgot ${saved[-1] - usd:.6f} of what it spent"
            )

    def _watch(self, managed: ManagedEndpoint) -> None:
        now, fleet = self._hub.clock.now(), managed.fleet
        self._watched[fleet.endpoint.id] = managed
        if fleet.endpoint.id == NOBODY:
            self._world.counts["orphans drained"] += len(fleet.workers)
        self._usd_h[fleet.endpoint.id] = sum(map(committed_usd_h, fleet.workers.values()))
        bill = self._bills[fleet.endpoint.id] = _Bill(fleet.spent_usd(now))
        bill.since = {w.id: (w.usd_h(), now) for w in fleet.workers.values()}

        def watched(at: float, event: object, effects: Sequence[Effect]) -> None:
            if isinstance(event, Ticked):
                self._check_money(fleet, event, at)
                because = fleet.decision.because if fleet.decision and fleet.decision.at == at else ()
                if any(reason.what == "to be replaced" for reason in because):
                    self.exchanged_s = self._world.loop.time()
            given = [e.outcome for e in effects if isinstance(e, Deliver) and isinstance(e.outcome, Assignment)]
            for one in sorted(given, key=lambda one: one.reqnum):  # who was in line was served before who asks
                self._check_given(fleet, one, event)
            for effect in effects:
                if not isinstance(effect, Moved):
                    continue
                before, worker, why = effect
                rate, since = bill.since.get(worker.id, (0.0, at))
                bill.usd += rate * (at - since) / SECONDS_PER_HOUR
                bill.since[worker.id] = worker.usd_h(), at
                if worker.state is State.DESTROYED:
                    del bill.since[worker.id]
                if before.state is State.IDLE and why in (Command.STOP, Command.UPDATE, Command.DESTROY):
                    self._check_drained(worker, why)
            try:
                fleet.validate()
            except AssertionError as error:
                self.broken("the controller's invariants", str(error))

        managed.listeners.append(watched)

    def _check_money(self, fleet: Controller, ticked: Ticked, now: float) -> None:
        """Nothing is begun that the installation's cap does not pay for, by what each endpoint was when it decided."""
        cap, decision, endpoint_id = self._hub.treasury.caps.max_usd_h, fleet.decision, fleet.endpoint.id
        self._usd_h[endpoint_id] = sum(map(committed_usd_h, fleet.workers.values()))
        if cap is None or decision is None or decision.at != now:
            return
        begins = decision.rentals or Goal.HOT in decision.goals.values()
        others = sum(usd_h for other, usd_h in self._usd_h.items() if other != endpoint_id)
        if begins and others + self._usd_h[endpoint_id] > cap * (1 + ROUNDING):
            said = f"endpoint {endpoint_id} begins {self._usd_h[endpoint_id]:g} beside {others:g}, {cap:g} are allowed"
            self.broken("never above the installation's cap", said)

    def _check_given(self, fleet: Controller, given: Assignment, event: object) -> None:
        """A request has been given a worker."""
        url, before = given.worker.url, self._reqnums.get(given.worker.url, 0)
        if given.reqnum <= before:
            self.broken("reqnum rises", f"{url} was given {given.reqnum} after {before}")
        self._reqnums[url] = given.reqnum
        request = fleet.ledger.open.get(given.request_idx)
        assert request is not None
        for older in fleet.ledger.line:
            asks = isinstance(event, Asked) and event.request_idx == older.idx  # it was not held when that was given
            if older.first_at < request.first_at and not older.failures and not asks:
                self.broken(
                    "who waits longest is first", f"{older.idx} is held, {request.idx} came later and was served"
                )

    # -- what happens --------------------------------------------------------------------------------------------------

    def heard(self, instance: SimInstance, message: Report | Ended) -> None:
        """The server has taken in a message of a worker."""
        now = self._world.loop.time()
        if isinstance(message, Ended):
            instance.known.pop(message.request_idx, None)
            return
        assert message.working is not None
        instance.heard = True
        unseen = {i: until for i, until in instance.known.items() if now < until < 1e9}
        instance.known = {**{i: until for i, until in unseen.items() if i not in message.working}}
        instance.known |= dict.fromkeys(message.working, 1e9)

    def routed(self, reply: RouteReply) -> None:
        """A client was given a worker."""
        instance = next((b for b in self._world.all_instances.values() if b.url == reply.url), None)
        if instance is not None:
            instance.known[reply.request_idx] = self._world.loop.time() + UNSEEN_KEPT_S

    # -- what must hold at every moment ------------------------------------------------------------------------------

    def look(self, endpoint_id: EndpointId) -> None:
        """Looks at a fleet as it is about to be written down."""
        managed = self._hub.endpoints.get(endpoint_id)
        if managed is None:
            return
        self.looks += 1
        fleet = managed.fleet
        if self._watched.get(endpoint_id) is not managed:  # new, or read again from the store
            self._watch(managed)
        number, most = len(fleet.workers), fleet.endpoint.scaling.max_workers
        # What is written now may have been decided under the limit of a moment ago.
        allowed, self._allowed[endpoint_id] = max(most, self._allowed.get(endpoint_id, 0)), most
        if not managed.leaving and number > max(allowed, self._most.get(endpoint_id, 0)):
            self.broken("never above max_workers", f"endpoint {endpoint_id} has {number} workers, {most} are allowed")
        self._most[endpoint_id] = number
        self._check_work(fleet)
        bill = self._bills[endpoint_id]
        now = self._hub.clock.now()
        mine, said = bill.usd_at(now), fleet.spent_usd(now)
        if abs(mine - said) > ROUNDING * (1 + mine):
            self.broken("spend is time billed", f"endpoint {endpoint_id} says ${said:.6f}, its time is ${mine:.6f}")
        bill.seen.append((self._world.loop.time(), now, said))

    def _check_work(self, fleet: Controller) -> None:
        ledger = fleet.ledger
        for worker_id, there in ledger.workers.items():
            work, true_work = there.work, fsum(r.cost for r in there.values())
            if work < 0 or abs(work - true_work) > ROUNDING * (1 + true_work):
                self.broken("outstanding work", f"worker {worker_id} has {work:g}, its requests are {true_work:g}")
        if (have := {i for i, there in ledger.workers.items() if there}) != ledger.at.keys():
            self.broken("outstanding work", f"requests at {have}, said to be at {set(ledger.at)}")

    def _check_drained(self, worker: Worker, why: Event) -> None:
        """A ready worker is ordered away: no request may be there that the server can know of."""
        now = self._world.loop.time()
        for instance in self._world.all_instances.values():
            if instance.label != worker.label or instance.id != worker.instance_id:
                continue
            known = [i for i in instance.working if not instance.heard or instance.known.get(i, 0.0) > now]
            if known:
                self.broken(
                    "no kill of a draining worker", f"{why} for worker {worker.id}, which has request {known[0]}"
                )

    # -- what must hold at rest ----------------------------------------------------------------------------------------

    def settled(self) -> None:
        """Long after the last fault and the last request: everything is as the parameters say, and nothing leaks."""
        workers: dict[str, Worker] = {}
        for endpoint_id, managed in self._hub.endpoints.items():
            fleet = managed.fleet
            workers |= {w.label: w for w in fleet.workers.values()}
            if managed.leaving:
                self.broken("convergence", f"endpoint {endpoint_id} was deleted and has {len(fleet.workers)} workers")
            if len(fleet.ledger) or fleet.ledger.outstanding():
                self.broken("outstanding work", f"at rest {len(fleet.ledger)} requests are open: {fleet.ledger.at}")
            self._check_size(fleet)
        for instance in self._world.all_instances.values():
            worker = workers.get(instance.label)
            if worker is None or worker.instance_id != instance.id:
                self.broken(
                    "no leak",
                    f"instance {instance.id}, {instance.label}, {instance.state}, belongs to no worker and is billed",
                )
            assert worker is not None
            serves = instance.state is Observation.RUNNING and instance.serves
            if (worker.state is State.IDLE) is not serves or (worker.state is State.STOPPED) is serves:
                self.broken("convergence", f"worker {worker.id} is {worker.state}, in truth {instance.state}")
            if instance.label not in self.adopted and abs(worker.usd_h() - instance.usd_h()) > ROUNDING:
                self.broken(
                    "spend is time billed", f"worker {worker.id}: {worker.usd_h()} $/h, billed {instance.usd_h()}"
                )
        if missing := workers.keys() - {b.label for b in self._world.all_instances.values()}:
            self.broken("convergence", f"no instance is there for {sorted(missing)}")

    def _check_size(self, fleet: Controller) -> None:
        endpoint, scaling = fleet.endpoint, fleet.endpoint.scaling
        by_state = {w.id: f"{w.state}/{w.goal}" for w in fleet.workers.values()}
        told: dict[str, Any] = {"workers": by_state, "state": str(endpoint.state), "scaling": scaling}
        groups = self._hub.groups_of(endpoint.id)
        if any(
            (w.state, w.goal) not in ((State.IDLE, Goal.HOT), (State.STOPPED, Goal.COLD))
            for w in fleet.workers.values()
        ):
            self.broken("convergence", f"endpoint {endpoint.id} is not at rest: {told}")
        if endpoint.state is EndpointState.STOPPED and any(
            w.state is not State.STOPPED for w in fleet.workers.values()
        ):
            self.broken("convergence", f"endpoint {endpoint.id} is stopped and has workers that run: {told}")
        if endpoint.state is not EndpointState.ACTIVE:
            return
        if any(w.outdated_at and not _over_cap(fleet, w) for w in fleet.workers.values()):
            self.broken("convergence", f"endpoint {endpoint.id} has workers that were not updated: {told}")
        hot = sum(w.goal is Goal.HOT for w in fleet.workers.values())
        if len(fleet.workers) > scaling.max_workers:
            self.broken("convergence", f"endpoint {endpoint.id} has too many workers: {told}")
        if groups and len(fleet.workers) < min(scaling.cold_workers, scaling.max_workers):
            self.broken("convergence", f"endpoint {endpoint.id} has too few workers: {told}")
        timeout_s = scaling.inactivity_timeout or 0.0
        least = 1 if scaling.min_load > 0 or timeout_s < 0 else 0
        if groups and scaling.max_workers and hot < least:
            self.broken("convergence", f"endpoint {endpoint.id} has no hot worker: {told}")
        if hot and least == 0 and last_stays_s(fleet.snapshot(self._hub.clock.now(), ())) == 0:
            self.broken("convergence", f"endpoint {endpoint.id} has hot workers that nobody asks for: {told}")


def _over_cap(fleet: Controller, worker: Worker) -> bool:
    """True if the caps of the last decision do not pay for this worker, which rests, to run as well."""
    because = fleet.decision.because if fleet.decision else ()
    caps = [reason.value for reason in because if reason.what == "cap" and isinstance(reason.value, float)]
    caps += [cap for cap in [fleet.endpoint.scaling.max_usd_h] if cap is not None]
    extra = worker.price.running_usd_h - committed_usd_h(worker)
    return fsum([*map(committed_usd_h, fleet.workers.values()), extra]) > min(caps, default=float("inf"))
