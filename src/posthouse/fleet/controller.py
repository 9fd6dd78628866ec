"""The controller of one endpoint: events in, effects out. It decides, routes, and knows what becomes of workers.

Synchronous and deterministic: time is an argument, nothing is looked up, so the same events give the same effects. The
server, the simulator and the campaign are drivers of it: they turn what happens into events, and effects into deeds.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from posthouse.domain.decision import Action, Decision, Memory, Obstacle, Snapshot
from posthouse.domain.endpoint import Endpoint
from posthouse.domain.errors import IllegalMove
from posthouse.domain.lifecycle import Command, Goal, State
from posthouse.domain.worker import Worker
from posthouse.fleet import events
from posthouse.fleet.events import (
    Assignment,
    Commit,
    Counters,
    Effect,
    Event,
    Level,
    Outbox,
    Run,
    Traffic,
    Unrecorded,
    Waiting,
    WakeAt,
)
from posthouse.fleet.requests import Requests
from posthouse.fleet.roster import Roster
from posthouse.fleet.view import View
from posthouse.policy.decide import decide

Policy: TypeAlias = Callable[[Snapshot, Memory], Decision]
"""What decides."""

MIN_GAP_S = 0.05
"""Shortest time between two ticks, however often the bell rings."""
SAVE_S = 60.0
"""How often what workers have spent is written down while nothing else changes."""
QUIET_S = 60.0
"""A decision that changes nothing is kept this often."""
UNWRITTEN_KEPT = 100
"""Decisions that wait for a store that cannot be used; one a minute is made where nothing changes."""
PHASE_SPREAD = 0.6180339887
"""The golden ratio: its multiples spread the moments of any number of endpoints evenly."""
STORY = 20
"""How many of the latest events an illegal move is shown with."""


class Controller(View):
    """One endpoint. Change it through `handle` and `assign` alone, *never* through its parts; ask it what it tells."""

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
    ) -> None:
        """`workers`: those of an earlier life, DESTROYED ones for what they teach. `spent_usd`: by workers now gone.

        `label`: what every label begins with. `known`: the providers that there are; None is all that are named.
        `silent_s`: a worker without a report for this long is silent. `rings`: what happens brings the next tick
        forward.
        """
        self.endpoint, self.policy = endpoint, policy
        self.memory = Memory()
        self.decision: Decision | None = None
        """The latest."""
        self.counters = Counters()
        self.stabilized_at = now + stabilization_s
        self.closed = False
        self._outbox = Outbox()
        traffic = traffic or Unrecorded()
        self._roster = Roster(now, endpoint.id, spent_usd, traffic, self.counters, self._outbox)
        self._requests = Requests(now, self._roster, traffic, self.counters, self._outbox)
        self._roster.work = self._requests
        self._requests.max_queue_s = endpoint.scaling.max_queue_time
        self._label, self._known, self._tick_s, self._silent_s, self._rings = label, known, tick_s, silent_s, rings
        self._listed: set[str] = set()
        self._awaited: frozenset[str] = frozenset()
        self._obstacles: list[str] = []
        self._tick_at, self._ticked_at = now, -math.inf
        self._wake_at: float | None = None
        self._planned: tuple[Action, ...] = ()
        self._writing: Commit | None = None
        self._unwritten: deque[Decision] = deque(maxlen=UNWRITTEN_KEPT)
        self._saved_at = self._saves_at = self._journalled_at = 0.0
        self._story: deque[tuple[float, Event]] = deque(maxlen=STORY)
        for worker in sorted(workers, key=lambda w: w.id):
            self._roster.restore(worker, now)
            if worker.goal is Goal.HOT and worker.state is not State.DESTROYED:
                self._requests.last_request_at = now  # when it was last asked for is not known: take it to be just now
            if worker.state is State.IDLE:
                self._requests.may_be_busy(worker.id)
        if self.workers:
            self._outbox.say(Level.INFO1, f"the server started; workers that it knows of: {len(self.workers)}")
        self._requests.membership_changed()
        self._plan()

    # -- the door ------------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Takes in what happened; returns what is to be done, in this order.

        Raises: IllegalMove, with the events that led there. Then and after any other error, what was to be done before
        it is still to be taken with `take_effects`.
        """
        self._story.append((now, event))
        try:
            _HANDLERS[type(event)](self, event, now)
        except IllegalMove as error:
            story = "; ".join(f"{at:.3f} {happened!r:.300}" for at, happened in self._story)
            raise IllegalMove(f"{error}; what led there: {story}") from error
        finally:
            if self._requests.line and type(event) is not events.Asked:
                self._requests.serve(now)
            self._plan()
        return self.take_effects()

    def assign(
        self, idx: int, cost: float, now: float, polls: bool = True, hold_s: float = 0.0
    ) -> Assignment | Waiting:
        """A worker for request `idx` (0: a new request), or word that it waits. The same as `Asked`, without its event.

        `polls`: the client will ask again with the same index. A known index adds no load. One that has a worker and
        asks again has failed there, and is kept from that worker for a while. `hold_s`: how long it is held open if it
        must wait, to be given the first worker that is free. What else is to be done, `take_effects` returns.
        """
        outcome = self._requests.assign(idx, cost, now, polls, hold_s)
        if isinstance(outcome, Waiting):
            self._ring(now)
            self._plan()
        return outcome

    def take_effects(self) -> list[Effect]:
        """What is to be done and was not taken yet."""
        return self._outbox.take() if self._outbox else []

    # -- events --------------------------------------------------------------------------------------------------------

    def _asked(self, event: events.Asked, now: float) -> None:
        outcome = self.assign(event.request_idx, event.cost, now, event.polls, event.hold_s)
        self._outbox.insert(0, events.Deliver(outcome.request_idx, outcome))

    def _left(self, event: events.Left, now: float) -> None:
        self._requests.forget(event.request_idx)

    def _failed(self, event: events.Failed, now: float) -> None:
        self._requests.failed(event.request_idx, event.worker_id, event.why, now)

    def _reported(self, event: events.Reported, now: float) -> None:
        if event.worker_id not in self.workers:
            return
        moves = self._roster.moves
        if self._roster.reported(event.worker_id, event.report, now):
            began_again = now < self.stabilized_at and event.worker_id in self.workers
            self._requests.reported(event.worker_id, event.report, now, began_again)
        if self._roster.moves != moves:
            self._ring(now)

    def _ended(self, event: events.RequestsEnded, now: float) -> None:
        for ended in event.ends:
            self._requests.end(event.worker_id, ended, now)

    def _listed_by(self, event: events.Listed, now: float) -> None:
        moves = self._roster.moves
        self._roster.listed(event.provider, event.instances, event.asked_at, now)
        if event.provider not in self._listed or self._roster.moves != moves:
            self._listed.add(event.provider)
            self._ring(now)

    def _offered(self, event: events.Offered, now: float) -> None:
        self._offers = event.offers

    def _answered(self, event: events.Answered, now: float) -> None:
        self._roster.command_answered(event.worker_id, now, event.failure, event.blame)
        if event.instance is not None and event.worker_id in self.workers:
            if event.command is Command.UPDATE:
                self._roster.updated(event.worker_id)
            self._roster.observe_instance(event.worker_id, event.instance, now)
        self._ring(now)

    def _configured(self, event: events.Configured, now: float) -> None:
        self.endpoint, self._awaited = event.endpoint, event.providers
        self._requests.max_queue_s = event.endpoint.scaling.max_queue_time
        self._ring(now)

    def _dismissed(self, event: events.Dismissed, now: float) -> None:
        for worker_id in event.worker_ids:
            self._roster.set_goal(worker_id, Goal.GONE)
        self._ring(now)

    def _update_asked(self, event: events.UpdateAsked, now: float) -> None:
        self._roster.ask_update(event.group_id, now)
        self._ring(now)

    def _update_cancelled(self, event: events.UpdateCancelled, now: float) -> None:
        self._roster.cancel_update(event.group_id)
        self._ring(now)

    def _accrued(self, event: events.Accrued, now: float) -> None:
        self._roster.accrue(now)

    def _released(self, event: events.Released, now: float) -> None:
        self._requests.release()

    def _closed(self, event: events.Closed, now: float) -> None:
        self.closed = True
        self._ring(now)

    # -- a tick --------------------------------------------------------------------------------------------------------

    def _ticked(self, event: events.Ticked, now: float) -> None:
        self._wake_at = None
        self._requests.let_go(now)
        if now < self._tick_at or self._writing is not None or (event.ids is None and not self.closed):
            return
        self._ticked_at, self._tick_at = now, now + self._tick_s
        self._roster.advance(now, self._silent_s)
        self._requests.expire(now)
        if self.closed:
            for worker_id in list(self.workers):
                self._roster.set_goal(worker_id, Goal.GONE)
            self._planned = tuple(self._roster.due(now))
        elif self._is_known():
            decision = self.policy(self.snapshot(now), self.memory)
            self.decision, self.memory = decision, decision.memory
            self._take_on(decision, iter(event.ids or ()), now)
            self._planned = tuple(self._roster.due(now))
        self._write_down(now)

    def _take_on(self, decision: Decision, ids: Any, now: float) -> None:
        """Sets the goals that a decision wants, and takes down the intent to rent what it wants rented."""
        for worker_id, goal in decision.goals.items():
            self._roster.set_goal(worker_id, goal)
        obstacles = [f"{o.what}: {o.rule}" for o in decision.because if isinstance(o, Obstacle)]
        for text in obstacles:
            if text not in self._obstacles:
                self._outbox.say(Level.INFO0, text)
        self._obstacles = obstacles
        for rental in decision.rentals:
            self._roster.rent(rental, next(ids), self._label, now)
        if decision.goals or decision.rentals or self._is_turn(QUIET_S, self._journalled_at, now):
            self._unwritten.append(decision)
            self._journalled_at = now

    def _write_down(self, now: float) -> None:
        """Everything planned is written down before it is begun: intent before effect."""
        save_all = self._is_turn(SAVE_S, self._saved_at, now)
        rows = self._roster.take_changes(everything=save_all)
        if not rows and not self._unwritten:
            self._begin(now)
            return
        self._saves_at = now if save_all else self._saved_at
        self._writing = Commit(rows, self._unwritten[0] if self._unwritten else None)
        self._outbox.append(self._writing)

    def _written(self, event: events.Written, now: float) -> None:
        writing, self._writing = self._writing, None
        if writing is None:
            return
        if not event.ok:
            self._roster.give_back(writing.rows)
            self._planned = ()
            return
        self._saved_at = self._saves_at
        if writing.decision is not None and self._unwritten and self._unwritten[0] is writing.decision:
            self._unwritten.popleft()
        self._begin(now)

    def _begin(self, now: float) -> None:
        """Gives the planned commands, but for those that are not due any more: the world went on meanwhile.

        What has become due since, no decision has seen.
        """
        planned, self._planned = self._planned, ()
        still_due = set(self._roster.due(now)) if planned else set()
        for action in planned:
            if action in still_due and self._is_listed(self.workers[action.worker_id].provider):
                self._roster.command_sent(action, now)
                if (worker := self.workers.get(action.worker_id)) is not None:  # one that was only an intent is gone
                    self._outbox.append(Run(worker, action.command))

    def _is_known(self) -> bool:
        """True once every provider that this endpoint uses was listed: before that, what exists is not known."""
        used = self._awaited | {w.provider for w in self.workers.values()}
        return all(self._is_listed(name) for name in used)

    def _is_listed(self, provider: str) -> bool:
        """True if the provider was listed since the start, or is gone for good."""
        return provider in self._listed or (self._known is not None and provider not in self._known)

    def _is_turn(self, every_s: float, last_at: float, now: float) -> bool:
        """True if the moment lies between `last_at` and `now` that comes every `every_s` seconds, at another time for
        each endpoint."""
        begin_s = self.endpoint.id * PHASE_SPREAD % 1.0 * every_s
        return (now - begin_s) // every_s > (last_at - begin_s) // every_s

    def _ring(self, now: float) -> None:
        """Brings the next tick forward."""
        if self._rings:
            self._tick_at = min(self._tick_at, max(now, self._ticked_at + MIN_GAP_S))

    def _plan(self) -> None:
        """Says when to be told of the time next, if that has changed."""
        end = self._requests.line.next_end()
        wake_at = self._tick_at if self._writing is None else math.inf
        if end is not None and end < wake_at:
            wake_at = end
        if wake_at != self._wake_at:
            self._wake_at = wake_at
            self._outbox.append(WakeAt(wake_at))

    def is_over(self) -> bool:
        """True if it is closed, no worker is left, and that is written down."""
        return self.closed and not self.workers and self._writing is None and not self._roster.has_changes()

    def take_rows(self) -> tuple[Worker, ...]:
        """Every worker as it is now, to be written down at the end of the server's life."""
        return self._roster.take_changes(everything=True)

    # -- invariants ----------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Raises: AssertionError where something does not hold that always must."""
        requests, workers = self._requests, self._roster.workers
        requests.ledger.validate()
        assert requests.ledger.at.keys() <= workers.keys(), "requests are at workers that are gone"
        assert self._roster.in_flight <= workers.keys(), "commands are on their way for workers that are gone"
        assert all(i == w.id and w.state is not State.DESTROYED for i, w in workers.items()), "a destroyed worker stays"
        assert self.spent_usd() >= 0, "less than nothing was spent"
        assert self._planned == () or self._writing is not None, "planned commands were not given"


_HANDLERS: dict[type, Callable[[Controller, Any, float], None]] = {
    events.Asked: Controller._asked,
    events.Left: Controller._left,
    events.Failed: Controller._failed,
    events.Reported: Controller._reported,
    events.RequestsEnded: Controller._ended,
    events.Listed: Controller._listed_by,
    events.Offered: Controller._offered,
    events.Answered: Controller._answered,
    events.Ticked: Controller._ticked,
    events.Written: Controller._written,
    events.Configured: Controller._configured,
    events.Dismissed: Controller._dismissed,
    events.UpdateAsked: Controller._update_asked,
    events.UpdateCancelled: Controller._update_cancelled,
    events.Accrued: Controller._accrued,
    events.Released: Controller._released,
    events.Closed: Controller._closed,
}
