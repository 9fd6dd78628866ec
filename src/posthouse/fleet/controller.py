"""The controller of one endpoint: events in, effects out. It decides, routes, and knows what becomes of workers.

Synchronous and deterministic: time is an argument, nothing is looked up, so the same events give the same effects. The
server, the simulator and the campaign are drivers of it: they turn what happens into events, and effects into deeds.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

from posthouse.domain.decision import Cap, Decision, Memory, Obstacle, Snapshot
from posthouse.domain.endpoint import Endpoint
from posthouse.domain.lifecycle import Command, Goal, State
from posthouse.domain.offer import GroupOffer
from posthouse.domain.reports import Report
from posthouse.domain.rollout import Rollout
from posthouse.domain.worker import Worker, WorkerId
from posthouse.errors import IllegalMove
from posthouse.fleet import events
from posthouse.fleet.events import Assignment, Commit, Counters, Effect, Event, Level, Outbox, Traffic, Waiting, Wish
from posthouse.fleet.ledger import Ledger
from posthouse.fleet.requests import Requests
from posthouse.fleet.roster import Roster
from posthouse.policy.decide import decide, drains_ended

Policy: TypeAlias = Callable[[Snapshot, Memory], Decision]

MIN_GAP_S = 0.05
"""Shortest time between two ticks, however often the bell rings."""
QUIET_S = 60.0
"""A decision that changes nothing is kept this often."""
UNWRITTEN_KEPT = 100
"""Decisions that wait for a store that cannot be used; one a minute is made where nothing changes."""
PHASE_SPREAD = 0.6180339887
"""The golden ratio: its multiples spread the moments of any number of endpoints evenly."""
STORY = 20
"""How many of the latest events an illegal move is shown with."""


class Controller:
    """One endpoint. Change it through `handle` and `assign` alone; its parts are there to be asked, *never* changed."""

    def __init__(
        self,
        endpoint: Endpoint,
        now: float,
        workers: Iterable[Worker] = (),
        stabilization_s: float = 0.0,
        spent_usd: float = 0.0,
        *,
        label: str = "",
        known: frozenset[str] | None = None,
        policy: Policy = decide,
        tick_s: float = 1.0,
        silent_s: float = 60.0,
        rings: bool = True,
        traffic: Traffic | None = None,
        rollouts: Iterable[Rollout] = (),
        canary_s: float = 60.0,
    ) -> None:
        """`workers`: those of an earlier life, DESTROYED ones for what they teach. `spent_usd`: by workers now gone.

        `label`: what every label begins with. `known`: the providers that there are; None is all that are named.
        `silent_s`: a worker without a report for this long is silent. `rings`: what happens brings the next tick
        forward. `rollouts`: those of an earlier life. `canary_s`: how long a canary must serve.
        """
        self.endpoint, self.policy, self.memory = endpoint, policy, Memory()
        self.decision: Decision | None = None
        self.counters = Counters()
        self.stabilized_at = now + stabilization_s
        self.closed = False
        self.outbox = Outbox()
        """Effects that were not taken yet."""
        self.roster = Roster(now, endpoint.id, spent_usd, self.counters, self.outbox, rollouts)
        self.requests = Requests(now, self.roster, traffic or Traffic(), self.counters, self.outbox)
        self.requests.claims.scaling = endpoint.scaling
        self.workers: Mapping[WorkerId, Worker] = MappingProxyType(self.roster.workers)
        """Every worker that is not DESTROYED."""
        self.ledger: Ledger = self.requests.ledger
        self._label, self._tick_s, self._silent_s, self._canary_s = label, tick_s, silent_s, canary_s
        self._rings, self._providers = rings, known
        self._awaited, self._listed = frozenset[str](), set[str]()  # providers that it may rent from; that were listed
        self._offers: tuple[GroupOffer, ...] = ()
        self._obstacles: list[str] = []
        self._tick_at, self._ticked_at = now, -math.inf
        self._wake_at: float | None = None
        self._writing: Commit | None = None
        self._unwritten: deque[Decision] = deque(maxlen=UNWRITTEN_KEPT)
        self._quiet_at = 0.0
        self._story: deque[tuple[float, Event]] = deque(maxlen=STORY)
        for worker in sorted(workers, key=lambda w: w.id):
            self.roster.restore(worker, now)
            if worker.goal is Goal.HOT and worker.state is not State.DESTROYED:
                self.requests.last_request_at = now  # when it was last asked for is not known: take it to be just now
            if worker.state is State.IDLE:  # until it says what it works on, that may be anything
                self.ledger.worker(worker.id).working = 1
        if self.workers:
            self.outbox.say(Level.INFO1, f"the server started; workers that it knows of: {len(self.workers)}")
        self._follow(now)
        self._plan()

    # -- the door ------------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Handles an event; returns what is to be done, in this order.

        Raises: IllegalMove, with the events that led there. Then and after any other error, what was to be done before
        it is still to be taken with `take_effects`.
        """
        self._story.append((now, event))
        try:
            self._dispatch(event, now)
        except IllegalMove as error:
            story = "; ".join(f"{at:.3f} {happened!r:.300}" for at, happened in self._story)
            raise IllegalMove(f"{error}; what led there: {story}") from error
        finally:
            self._follow(now)
            if self.requests.ledger.line and type(event) is not events.Asked:
                self.requests.serve(now)
            self._plan()
        return self.take_effects()

    def assign(
        self, idx: int, cost: float, now: float, polls: bool = True, hold_s: float = 0.0, wish: Wish | None = None
    ) -> Assignment | Waiting:
        """A worker for request `idx` (0: a new request), or word that it waits. The same as `Asked`, without its event.

        `polls`: the client will ask again with the same index. A known index adds no load. One that has a worker and
        asks again has failed there, and is kept from that worker for a while. `hold_s`: how long it is held open if it
        must wait, to be given the first worker that is free. `wish`: as of each call. What else is to be done,
        `take_effects` returns.
        """
        outcome = self.requests.assign(idx, cost, now, polls, hold_s, wish)
        if type(outcome) is Waiting:
            if idx == 0:  # a repeated call says nothing new
                self._ring(now)
            self._plan()
        return outcome

    def take_effects(self) -> list[Effect]:
        return self.outbox.take() if self.outbox else []

    def _dispatch(self, event: Event, now: float) -> None:
        roster, requests = self.roster, self.requests
        if type(event) is events.RequestsEnded:  # the most frequent one, and this is three times as fast as a pattern
            requests.end(event.worker_id, event.ends, now)
            return
        match event:
            case events.Reported(worker_id, report):
                if worker_id in self.workers:
                    self._reported(worker_id, report, now)
            case events.Asked(idx, cost, polls, hold_s, wish):
                outcome = self.assign(idx, cost, now, polls, hold_s, wish)
                self.outbox.insert(0, events.Deliver(outcome.request_idx, outcome))
            case events.Left(idx):
                requests.forget(idx, now)
            case events.Failed(idx, worker_id, why):
                requests.failed(idx, worker_id, why, now)
            case events.Ticked(ids, cap):
                self._ticked(ids, cap, now)
            case events.Written(ok):
                self._written(ok, now)
            case events.Offered(offers):
                self._offers = offers
            case events.Listed(provider, instances, asked_at):
                roster.listed(provider, instances, asked_at, now)
                if provider not in self._listed or roster.moved:
                    self._listed.add(provider)
                    self._ring(now)
            case _:
                self._apply_wish(event, now)
                self._ring(now)

    def _reported(self, worker_id: WorkerId, report: Report, now: float) -> None:
        if self.roster.reported(worker_id, report, now):
            began_again = now < self.stabilized_at and worker_id in self.workers
            self.requests.reported(worker_id, report, now, began_again)
        if self.roster.moved:
            self._ring(now)

    def _follow(self, now: float) -> None:
        """Passes changes of workers on to the requests."""
        if not (self.roster.moved or self.roster.changed):
            return
        moved, self.roster.moved = self.roster.moved, []
        for move in moved:
            self.requests.worker_moved(move, now)
        self.roster.changed = False
        self.requests.membership_changed()

    def _apply_wish(self, event: Event, now: float) -> None:
        match event:
            case events.Answered(worker_id, command, failure, blame, instance):
                self.roster.command_answered(worker_id, now, failure, blame)
                if instance is not None and worker_id in self.workers:
                    if command is Command.UPDATE:
                        self.roster.updated(worker_id)
                    self.roster.observe_instance(worker_id, instance, now)
            case events.Configured(endpoint, providers, builds):
                self.endpoint, self._awaited = endpoint, providers
                self.requests.claims.scaling = endpoint.scaling
                self.roster.rollouts.configured(builds, now)
                self.roster.changed = True
            case events.Dismissed(worker_ids, goal):
                for worker_id in worker_ids:
                    self.roster.wish(worker_id, goal, now)
            case events.UpdateAsked(group_id, wanted):
                self.roster.rollouts.asked(group_id, wanted, now)
                self.roster.changed = True
            case events.Released():
                self.requests.let_go(math.inf)
            case events.Closed():
                self.closed = True

    # -- a tick --------------------------------------------------------------------------------------------------------

    def _ticked(self, ids: Iterable[WorkerId] | None, cap: Cap | None, now: float) -> None:
        self._wake_at = None
        self.requests.let_go(now)
        if now < self._tick_at or self._writing is not None or (ids is None and not self.closed):
            return
        self._ticked_at, self._tick_at = now, now + self._tick_s
        self.roster.advance(now, self._silent_s)
        self.roster.changed |= self.roster.rollouts.advance(now, self._canary_s)
        self._follow(now)
        self.requests.expire(now)
        if useless := self.requests.outliers.useless(now):
            self.roster.give_up(*useless, now)
            self._follow(now)
        if self.closed:
            for worker_id in list(self.workers):
                self.roster.set_goal(worker_id, Goal.GONE)
            self.requests.end_drains(drains_ended(replace(self.snapshot(now), cap=cap)))
        elif self._knows_all():
            decision = self.policy(replace(self.snapshot(now), cap=cap), self.memory)
            self.decision, self.memory = decision, decision.memory
            self._apply_decision(decision, ids or (), now)
        # Everything that is wanted is written down before it is begun: intent before effect.
        rows, rollouts = self.roster.take_changes(), self.roster.rollouts.take()
        if rows or rollouts or self._unwritten:
            self._writing = Commit(rows, self._unwritten[0] if self._unwritten else None, rollouts)
            self.outbox.append(self._writing)
        else:
            self._begin(now)

    def _apply_decision(self, decision: Decision, ids: Iterable[WorkerId], now: float) -> None:
        """Sets the goals of a decision, and notes the intent to rent its rentals."""
        for worker_id, goal in decision.goals.items():
            self.roster.set_goal(worker_id, goal)
        self.requests.end_drains(decision.ended)
        obstacles = [f"{o.what}: {o.rule}" for o in decision.because if isinstance(o, Obstacle)]
        for text in [text for text in obstacles if text not in self._obstacles]:
            self.outbox.say(Level.INFO0, text)
        self._obstacles = obstacles
        for rental, worker_id in zip(decision.rentals, ids, strict=False):
            self.roster.rent(rental, worker_id, self._label, now)
        if decision.goals or decision.rentals or now >= self._quiet_at:
            self._unwritten.append(decision)
            phase_s = self.endpoint.id * PHASE_SPREAD % 1.0 * QUIET_S  # another time for each endpoint
            self._quiet_at = phase_s + ((now - phase_s) // QUIET_S + 1) * QUIET_S

    def _written(self, ok: bool, now: float) -> None:
        writing, self._writing = self._writing, None
        if writing is None:
            return
        if not ok:
            self.roster.give_back(writing.rows)
            self.roster.rollouts.unsaved |= bool(writing.rollouts)
            return
        if writing.decision is not None and self._unwritten and self._unwritten[0] is writing.decision:
            self._unwritten.popleft()
        self._begin(now)

    def _begin(self, now: float) -> None:
        """Gives the commands that are due, but for workers that changed while the rest was written down."""
        known = self.closed or self._knows_all()
        for worker_id, command in list(self.roster.due(now, self.requests.keeps)):
            listed = self._is_listed(self.workers[worker_id].provider)
            if known and listed and worker_id not in self.roster.unsaved:
                self.roster.command_sent(worker_id, command, now)
                if (worker := self.workers.get(worker_id)) is not None:  # one that was only an intent is gone
                    self.outbox.append(events.Run(worker, command))

    def _is_listed(self, provider: str) -> bool:
        """True if the provider was listed since the start, or is gone for good."""
        return provider in self._listed or (self._providers is not None and provider not in self._providers)

    def _knows_all(self) -> bool:
        """True once every provider that the endpoint uses was listed: before that, what exists is not known."""
        return all(map(self._is_listed, self._awaited | {w.provider for w in self.workers.values()}))

    def _ring(self, now: float) -> None:
        """Brings the next tick forward."""
        if self._rings:
            self._tick_at = min(self._tick_at, max(now, self._ticked_at + MIN_GAP_S))

    def _plan(self) -> None:
        """Asks for the next `Ticked`, if its time has changed."""
        wake_at = min(self._tick_at if self._writing is None else math.inf, self.requests.ledger.next_end)
        if wake_at != self._wake_at:
            self._wake_at = wake_at
            self.outbox.append(events.WakeAt(wake_at))

    # -- questions -----------------------------------------------------------------------------------------------------

    def spent_usd(self, now: float) -> float:
        return self.roster.spent_usd(now)

    def snapshot(self, now: float, offers: tuple[GroupOffer, ...] | None = None) -> Snapshot:
        """Everything that a decision may use. `offers`: None stands for the latest that `Offered` had."""
        estimator = self.roster.estimator
        return Snapshot(
            now=now,
            endpoint=self.endpoint,
            workers=tuple(self.workers.values()),
            demand=self.requests.demand(now),
            offers=self._offers if offers is None else offers,
            estimates=estimator.estimates(now),
            busy=frozenset(i for i in self.workers if self.requests.busy(i)),
            resting=self.roster.resting(now),
            outliers=frozenset(self.requests.outliers.penalties_s(now)),
            group_failures=dict(estimator.group_failures),
            machine_failures=dict(estimator.failures),
            held_against={machine: estimator.held_against(machine, now) for machine in estimator.held},
            loaded_on=tuple(estimator.loaded_on),
            stabilized_at=self.stabilized_at,
            rollouts=dict(self.roster.rollouts),
        )

    def is_over(self) -> bool:
        """True if it is closed, no worker is left, and that is written down."""
        return self.closed and not self.workers and self._writing is None and not self.roster.unsaved

    def validate(self) -> None:
        """Raises: AssertionError where something does not hold that always must."""
        self.ledger.validate()
        assert self.ledger.at.keys() <= self.workers.keys(), "requests are at workers that are gone"
        assert State.DESTROYED not in {w.state for w in self.workers.values()}, "a destroyed worker stays"
