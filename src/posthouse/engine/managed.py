"""One endpoint in the running server: its controller, and what is done for its effects."""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Protocol, TypeAlias

from posthouse import __version__
from posthouse.domain.decision import Decision
from posthouse.domain.endpoint import Endpoint, WorkergroupId
from posthouse.domain.lifecycle import COMING, Goal, State
from posthouse.domain.offer import GroupOffer
from posthouse.domain.reports import Ended
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine.costs import Costs
from posthouse.engine.history import History
from posthouse.engine.measured import Log
from posthouse.engine.samples import Samples
from posthouse.engine.worker_stats import WorkerStats
from posthouse.fleet.controller import Controller
from posthouse.fleet.events import (
    Asked,
    Assignment,
    Closed,
    Commit,
    Deliver,
    Dismissed,
    Effect,
    Event,
    Level,
    Moved,
    Reported,
    Run,
    Say,
    Waiting,
    WakeAt,
    Wish,
)
from posthouse.fleet.ledger import NOBODY, OnEnd
from posthouse.ports import FleetRecord
from posthouse.recording.events import Began, EventLog
from posthouse.recording.log import Slice
from posthouse.recording.segment import Segment

SEGMENTS_KEPT = 12
"""Segments of an endpoint that wait for a store that cannot be used: an hour of it, unless it is asked much."""

GONE_KEPT = 100
"""Workers of an endpoint that are gone and still shown."""
NO_RECORD = FleetRecord(0, ())
FAILURES_TOLD = 3
"""Most failures that are shown while no worker is ready."""
GONE_S = 86_400.0
"""For how long they are shown."""
REFUSAL_NOTED_S: Final = 3600.0
"""Shortest time between two lines about refused messages of one worker."""
REFUSED: Final = {
    False: "a report was refused: it has no token; its code uses neither MASTER_TOKEN nor the whole of REPORT_ADDR",
    True: "a report was refused: its token is not this worker's; its MASTER_TOKEN or REPORT_ADDR was changed",
}
"""What is said of a refused report, by whether it had a token."""


class Expected(NamedTuple):
    """When a worker is expected, in seconds from now; 0 where nobody can tell."""

    in_s: float = 0.0
    """As likely sooner as later."""
    from_s: float = 0.0
    by_s: float = 0.0
    """Nine in ten come between these; 0 where only the middle is known."""


class Refusal(NamedTuple):
    """That messages of a worker were refused."""

    why: str
    """Empty: a later one was accepted."""
    noted_at: float


Listener: TypeAlias = Callable[[float, Event | None, list[Effect]], None]
"""Called with the time, an event and its effects; the event is None at the beginning."""


class Deeds(Protocol):
    """Carries out what a controller asks for."""

    def run_command(self, managed: "ManagedEndpoint", command: Run, now: float) -> None:
        """Begins to carry a command out, and has `Answered` handled then."""

    def commit(self, managed: "ManagedEndpoint", commit: Commit, now: float) -> None:
        """Begins to write down, and has `Written` handled then."""

    def wake(self, managed: "ManagedEndpoint") -> None:
        """`wake_at` has changed."""


class Nothing:
    """Does nothing: for an endpoint whose control loop does not run."""

    def run_command(self, managed: "ManagedEndpoint", command: Run, now: float) -> None: ...
    def commit(self, managed: "ManagedEndpoint", commit: Commit, now: float) -> None: ...
    def wake(self, managed: "ManagedEndpoint") -> None: ...


class ManagedEndpoint:
    """A controller with what surrounds it in the server. Every event goes through `handle`."""

    def __init__(
        self,
        fleet: Controller,
        log: Log | None = None,
        version: int = 0,
        deeds: Deeds | None = None,
        epoch: int = 1,
    ) -> None:
        log = log or Log(0.0)
        self.fleet, self.traffic_log, self.version, self.epoch = fleet, log, version, epoch
        """`version`: of the fleet in the store, for compare-and-set; `epoch`: of the lease under which it is here."""
        self.deeds: Deeds = deeds or Nothing()
        self.history = History()
        self.samples, self.costs = Samples(), Costs()
        self.stats, self.measured = log.stats, log.measured
        self.held: dict[int, Callable[[Assignment | Waiting], None]] = {}
        """Called with the outcome of each request that is held open."""
        self.unkept: deque[Segment] = deque(maxlen=SEGMENTS_KEPT)
        """Segments of its traffic log that could not be stored yet."""
        self.offers: tuple[GroupOffer, ...] = ()
        """The latest offers that its controller got."""
        self.wake_at = 0.0
        """When its controller gets `Ticked` next."""
        self.leaving = False
        """Its endpoint was deleted; it stays until its last worker is gone."""
        self.closing = False
        """Another server may own it soon: it no longer gets `Ticked`."""
        self.listeners: list[Listener] = []
        """Called with every event, also with a request for a worker."""
        self.watchers: list[Callable[[float, list[Effect]], None]] = []
        """Called with effects only: a request that gets a worker at once has none."""
        self.kept: EventLog | None = None
        """Where its events are kept, if they are."""
        self.expected = 0.0, Expected()
        """The latest estimate of when a worker is expected, and when it was made."""
        self.stuck = 0.0, ""
        """The latest verdict's word, and when it was made."""
        self.limited: Counter[str] = Counter()
        """Requests that were refused since the start, by the limit of their key."""
        self._refusals: dict[WorkerId, Refusal] = {}
        self._effects: deque[Effect] = deque()
        self._at_work = False
        self._born_at = log.since
        self.gone: deque[tuple[float, Worker]] = deque(maxlen=GONE_KEPT)
        """The latest workers that were destroyed, and when."""

    @classmethod
    def open(
        cls,
        endpoint: Endpoint,
        now: float,
        record: FleetRecord = NO_RECORD,
        stabilization_s: float = 0.0,
        *,
        epoch: int = 1,
        deeds: Deeds | None = None,
        label: str = "",
        known: frozenset[str] | None = None,
        tick_s: float = 1.0,
        silent_s: float = 60.0,
        canary_s: float = 60.0,
        keep: "Callable[[Began], EventLog | None]" = lambda began: None,
    ) -> "ManagedEndpoint":
        """The endpoint with what is stored of an earlier life; parameters as of `Controller`.

        `keep`: returns where its events are kept, if they are.
        """
        rows, spent_usd, rollouts = record.workers, record.spent_usd, record.rollouts
        log = Log(now, sum(w.state is not State.DESTROYED for w in rows))
        times = tick_s, silent_s, canary_s
        began = Began(__version__, endpoint, now, rows, stabilization_s, spent_usd, label, known, *times, rollouts)
        managed = cls(began.controller(traffic=log), log, record.version, deeds, epoch)
        managed.kept = keep(began)
        if managed.kept is not None:
            managed.listeners.append(managed.kept.heard)
        gone = (w for w in rows if w.state is State.DESTROYED)
        managed.gone.extend((w.since, w) for w in sorted(gone, key=lambda w: (w.since, w.id)))
        managed.perform(None, now)
        return managed

    @property
    def decision(self) -> Decision | None:
        """The latest."""
        return self.fleet.decision

    def assign(
        self, idx: int, cost: float, now: float, polls: bool = True, hold_s: float = 0.0, wish: Wish | None = None
    ) -> Assignment | Waiting:
        """What the controller's `assign` returns, with its other effects done."""
        outcome = self.fleet.assign(idx, cost, now, polls, hold_s, wish)
        if not (self.fleet.outbox or self.listeners):
            return outcome
        effects = self.fleet.take_effects()
        for listener in self.listeners:
            listener(now, Asked(idx, cost, polls, hold_s, wish), [Deliver(outcome.request_idx, outcome), *effects])
        if effects:
            self._do_all(effects, now)
        return outcome

    def call_at_end(self, idx: int, on_end: OnEnd) -> None:
        """Has `on_end` called when this open request ends."""
        self.fleet.ledger.on_end[idx] = on_end

    def let_go(self, now: float) -> None:
        """Calls all of these now, as the outcome of their requests is no longer known here."""
        ledger = self.fleet.ledger
        for idx, tell in ledger.on_end.items():
            tell(ledger.open[idx].announced, now)
        ledger.on_end.clear()

    def settle(self, worker_id: WorkerId, ends: Iterable[Ended], now: float) -> None:
        """Calls those of these ends with the work that was done, before the ends are handled."""
        ledger = self.fleet.ledger
        for ended in ends:
            request = ledger.open.get(ended.request_idx)
            if request is not None and request.worker_id == worker_id and request.idx in ledger.on_end:
                tell = ledger.on_end.pop(request.idx)
                tell(ended.work if ended.work is not None or not ended.success else request.announced, now)

    def handle(self, event: Event, now: float) -> None:
        """Hands an event to the controller, and does what it asks for. Raises: what the controller raises."""
        try:
            effects = self.fleet.handle(event, now)
        except Exception:
            self.perform(event, now)
            raise
        if type(event) is Reported:
            stats = self.stats.get(event.worker_id)
            if stats is None and event.worker_id in self.fleet.workers:
                stats = self.stats[event.worker_id] = WorkerStats(now)
            if stats is not None:
                stats.take(event.report, now)
        if effects or self.listeners:
            self._do(event, effects, now)

    def perform(self, event: Event | None, now: float) -> None:
        """Does what the controller asked for and nobody has done yet."""
        if effects := self.fleet.take_effects():
            self._do(event, effects, now)

    def _do(self, event: Event | None, effects: list[Effect], now: float) -> None:
        for listener in self.listeners:
            listener(now, event, effects)
        if effects:
            self._do_all(effects, now)

    def _do_all(self, effects: list[Effect], now: float) -> None:
        for watcher in self.watchers:
            watcher(now, effects)
        self._effects += effects
        if self._at_work:
            return  # the loop further up the stack does these, too, in their order
        self._at_work = True
        try:
            while self._effects:
                self._do_one(self._effects.popleft(), now)
        finally:
            self._at_work = False

    def _do_one(self, effect: Effect, now: float) -> None:
        match effect:
            case Deliver(request_idx, outcome):
                if (answer := self.held.pop(request_idx, None)) is not None:
                    answer(outcome)
            case WakeAt(at):
                self.wake_at = at
                self.deeds.wake(self)
            case Moved(before, after, why):
                self.traffic_log.moved(before, after, why, now)
                self.history.moved(now, before, after, why)
                self._note_move(before, after, now)
            case Say(level, text, worker_id, group_id):
                self.history.note(now, level, text, worker_id, group_id)
            case Run():
                self.deeds.run_command(self, effect, now)
            case Commit():
                if effect.decision is not None:
                    self.measured.decided(effect.decision)
                self.deeds.commit(self, effect, now)

    def _note_move(self, before: Worker, after: Worker, now: float) -> None:
        self.measured.moved(self.fleet, before, after, now)
        stats = self.stats.get(after.id)
        if stats is not None and before.state is State.UNAVAIL and after.state is State.IDLE:
            stats.away_s += now - before.since
        if after.state is State.DESTROYED:
            self.stats.pop(after.id, None)
            self.gone.append((now, after))
            self._refusals.pop(after.id, None)

    def refused(self, worker_id: WorkerId, has_token: bool, now: float) -> None:
        """Notes that a message in a worker's name was refused: at most once an hour, as anybody can send one."""
        before, why = self._refusals.get(worker_id), REFUSED[has_token]
        if before is not None and now - before.noted_at < REFUSAL_NOTED_S:
            self._refusals[worker_id] = Refusal(why, before.noted_at)
        else:
            self._refusals[worker_id] = Refusal(why, now)
            self.history.note(now, Level.INFO0, why, worker_id, self.fleet.workers[worker_id].group_id)

    def accepted(self, worker_id: WorkerId) -> None:
        """Notes that a message of this worker was accepted."""
        if (before := self._refusals.get(worker_id)) is not None:
            self._refusals[worker_id] = Refusal("", before.noted_at)

    def message_of(self, worker: Worker) -> str:
        """The message to show of a worker: the last one of itself or its provider, or that its messages are refused."""
        refusal = self._refusals.get(worker.id)
        return worker.message or ("" if refusal is None else refusal.why)

    # -- what others ask of it -----------------------------------------------------------------------------------------

    def close(self, now: float) -> None:
        """Has every worker destroyed; when none is left, the endpoint may be forgotten."""
        self.leaving = True
        self.handle(Closed(), now)

    def dismiss(self, workers: Iterable[Worker], now: float) -> int:
        """Sets the goal of workers to gone; returns how many had another one."""
        leaving = tuple(w.id for w in workers if w.goal != "gone")
        self.handle(Dismissed(leaving), now)
        return len(leaving)

    def recently_gone(self, now: float) -> list[tuple[float, Worker]]:
        """The workers that were destroyed in the last day, and when; the latest comes last."""
        there = self.fleet.workers  # an orphan that was adopted is a worker again
        return [(at, worker) for at, worker in self.gone if at > now - GONE_S and worker.id not in there]

    def last_failures(self, now: float) -> list[Worker]:
        """The latest workers that failed and said why: those that are gone, then those that are there."""
        there = (worker for worker in self.fleet.workers.values() if worker.state not in COMING)
        return [w for w in (*(gone for _, gone in self.recently_gone(now)), *there) if w.message][-FAILURES_TOLD:]

    def wish(self, worker_id: WorkerId, goal: Goal, who: str, now: float) -> None:
        """Has a worker rest, serve on, or restart, because a person asked for it. `who`: for its log."""
        wanted = {Goal.COLD: "rest", Goal.HOT: "serve on"}.get(goal, "restart")
        self.history.note(now, Level.INFO1, f"is to {wanted}, says {who}", worker_id)
        self.handle(Dismissed((worker_id,), goal), now)

    def of_group(self, group_id: WorkergroupId) -> list[Worker]:
        return [w for w in self.fleet.workers.values() if w.group_id == group_id]

    def worker_stats(self, worker_id: WorkerId) -> WorkerStats:
        """What the worker has reported since this server owns it; all 0 if nothing yet."""
        return self.stats.get(worker_id) or WorkerStats(self._born_at)

    def mean_load(self, worker_id: WorkerId, now: float) -> float:
        """Outstanding work of a worker, as a mean of the last minute or so."""
        there = self.fleet.ledger.at.get(worker_id, NOBODY).values()
        return self.worker_stats(worker_id).mean_load(now, ((r.cost, now - r.assigned_at) for r in there))

    def traffic_due(self, now: float, at_once: bool = False) -> bool:
        """True if the traffic log should be drained; `at_once`: if it has anything."""
        workers = self.fleet.workers.values()
        return self.traffic_log.due(now, workers) or (at_once and bool(workers or not self.traffic_log.blank))

    def drain_traffic(self, now: float) -> Slice:
        """What happened since the traffic log was drained before, up to now."""
        return self.traffic_log.drain(now, self.fleet.workers.values())

    def copy_traffic(self, now: float) -> Slice:
        """The same, to look at."""
        return self.traffic_log.copy(now, self.fleet.workers.values())
