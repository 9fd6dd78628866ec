"""The lives of one endpoint's workers: what is seen of each, what is wanted, which commands follow, what was spent."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from posthouse.domain.decision import Action, Rental
from posthouse.domain.endpoint import EndpointId
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import (
    COMING,
    NOTHING_NEW,
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
from posthouse.domain.offer import SECONDS_PER_HOUR
from posthouse.domain.reports import Report
from posthouse.domain.worker import Worker, WorkerId
from posthouse.domain.workergroup import WorkergroupId
from posthouse.fleet.estimator import Estimator
from posthouse.fleet.events import Counters, Level, Moved, Outbox, Traffic
from posthouse.fleet.lives import Progress, after_report, can_be_updated, restored, wanted
from posthouse.policy.tuning import TUNING

UNCLEAR_S = 30.0
"""How long after a creation with an unknown outcome an instance that is not listed may still appear."""
FAILED_DRAIN_S = 60.0
"""How long a worker that reported an error may finish what it has: it often serves on."""
ACCRUE_S = 10.0
"""How often what each worker has spent is added up while no state changes; the sum of all is exact at every tick."""


class Work(Protocol):
    """What workers' lives ask of the requests, and tell them."""

    def busy(self, worker_id: WorkerId) -> bool:
        """True if requests are on the worker."""

    def worker_left(self, worker_id: WorkerId, now: float, for_good: bool) -> None:
        """A worker serves nothing any more."""

    def membership_changed(self) -> None:
        """Others may take requests now than before."""


class Roster:
    """Every worker of one endpoint, from the intent to rent it until it is destroyed."""

    work: Work

    def __init__(
        self,
        now: float,
        endpoint_id: EndpointId,
        spent_usd: float,
        traffic: Traffic,
        counters: Counters,
        outbox: Outbox,
    ) -> None:
        self.workers: dict[WorkerId, Worker] = {}
        self.estimator = Estimator()
        self.spent_gone_usd = spent_usd
        self.in_flight: set[WorkerId] = set()  # workers with a command that was not answered yet
        self.moves = 0  # how often a worker has changed its state
        self._endpoint_id, self._traffic, self._counters, self._outbox = endpoint_id, traffic, counters, outbox
        self._unsaved: dict[WorkerId, Worker | None] = {}
        self._reported_at: dict[WorkerId, float] = {}
        self._answered_at: dict[WorkerId, float] = {}
        self._rests_until: dict[WorkerId, float] = {}
        self._progress = Progress()
        self._born_at = self._accrued_at = self._advanced_at = now

    def restore(self, worker: Worker, now: float) -> None:
        """Takes in a worker of an earlier life; a DESTROYED one for what it teaches."""
        if worker.perf > 0:
            self.estimator.measured(worker)
        if worker.state is State.DESTROYED:
            return
        worker = restored(worker, now)
        self.workers[worker.id] = worker
        self._reported_at[worker.id] = now

    # -- what workers and providers tell -------------------------------------------------------------------------------

    def reported(self, worker_id: WorkerId, report: Report, now: float) -> bool:
        """Takes in a worker's report. False if it is of what ran before an update that has begun."""
        before = worker = self.workers[worker_id]
        self._reported_at[worker_id] = now
        if worker.state in UPDATING and worker_id in self.in_flight:
            return False
        worker, ready, refused = after_report(worker, report)
        self._counters.refused_addresses += refused
        if ready and worker.perf != before.perf:
            self.estimator.measured(worker)
        if worker is not before:
            self._put(worker)
        self._say_what_is_new(before, worker, report)
        seen = Observation.REPORTED_READY if ready else Observation.REPORTED_LOADING
        self._see(worker_id, Observation.REPORTED_ERROR if report.error else seen, now)
        if worker_id in self.workers:
            self._note_progress(worker_id, "report", self._progress.reported(worker_id, report), now)
        return True

    def _say_what_is_new(self, before: Worker, worker: Worker, report: Report) -> None:
        if (before.url, before.perf) != (worker.url, worker.perf):
            self.work.membership_changed()
            text = f"reports from {worker.url}, version {worker.version or 'unknown'}, {worker.perf:g} work/s"
            self._outbox.say(Level.TRACE, text, worker)
        if worker.message != before.message and not report.error:
            self._outbox.say(Level.TRACE if report.waits_for else Level.INFO0, worker.message, worker)

    def listed(self, provider: str, instances: Sequence[Instance], asked_at: float, now: float) -> None:
        """Takes in a provider's complete list, asked for at `asked_at`."""
        by_label = {i.label: i for i in instances}
        by_id = {i.id: i for i in instances}
        for worker in [w for w in self.workers.values() if w.provider == provider]:
            answered_at = self._answered_at.get(worker.id, self._born_at)
            if worker.state is State.WANTED or worker.id in self.in_flight or asked_at < answered_at:
                continue  # the list may be older than our last command
            instance = by_id.get(worker.instance_id, by_label.get(worker.label))
            if instance is not None:
                self.observe_instance(worker.id, instance, now)
                continue
            known = worker.instance_id and asked_at > answered_at  # of the same moment, it may be older
            if known or worker.state is State.DESTROYING or asked_at >= answered_at + UNCLEAR_S:
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

    def advance(self, now: float, silent_s: float) -> None:
        """Lets time pass: deadlines, silence, money."""
        self._advanced_at = now
        if now - self._accrued_at >= ACCRUE_S:
            self.accrue(now)
        for worker_id in list(self.workers):
            worker = self.workers[worker_id]  # as it is now: what one was seen to do adds up the money of all
            silent = now - self._reported_at.get(worker.id, self._born_at) > silent_s
            loading_s = 0.0 if silent else self._progress.loading_s.get(worker.id, 0.0)
            if overdue(worker.state, now, worker.since, worker.progressed_at, loading_s):
                reason = f"{worker.state} for {now - worker.since:.0f} s without progress"
                self._put(replace(worker, message=f"{reason}: {worker.message}" if worker.message else reason))
                self._see(worker.id, Observation.OVERDUE, now)
            elif worker.state is State.IDLE and silent:
                self._see(worker.id, Observation.SILENT, now)

    # -- what is wanted, and what follows ------------------------------------------------------------------------------

    def set_goal(self, worker_id: WorkerId, goal: Goal) -> None:
        """Sets what we want of a worker."""
        worker = self.workers.get(worker_id)
        if worker is not None and worker.goal is not goal:
            self._put(replace(worker, goal=goal))
            self.work.membership_changed()

    def rent(self, rental: Rental, worker_id: WorkerId, label: str, now: float) -> None:
        """Takes down the intent to rent a worker."""
        offer, worker = rental.offer.offer, wanted(rental, worker_id, self._endpoint_id, label, now)
        self._put(worker)
        text = f"is wanted {rental.goal}: offer {offer.id} of {offer.provider} for workergroup {rental.group_id}"
        self._outbox.say(Level.INFO1, text, worker)

    def due(self, now: float) -> Iterator[Action]:
        """The commands that move workers toward their goals, but for workers with a command on its way."""
        rest = self.resting(now) | self.in_flight
        for worker in self.workers.values():
            command = next_command(worker.goal, worker.state, self._drains(worker, now), worker.capabilities)
            if command is not None and worker.id not in rest:
                yield Action(worker.id, command)

    def command_sent(self, action: Action, now: float) -> None:
        """Notes that a command goes out. Raises: IllegalMove if the tables do not allow it."""
        worker = self.workers[action.worker_id]
        state = after_command(worker.state, action.command)
        if action.command is Command.UPDATE:
            self.set_goal(worker.id, goal_beyond_update(worker.state))
        self._enter(action.worker_id, state, now, action.command)
        self._traffic.commanded(action.command)
        if state is not State.DESTROYED:
            self.in_flight.add(action.worker_id)

    def command_answered(self, worker_id: WorkerId, now: float, failure: str = "", blame: bool = True) -> None:
        """Notes that a command has been answered. `failure`, `blame`: see `events.Answered`."""
        self.in_flight.discard(worker_id)
        worker = self.workers.get(worker_id)
        if worker is None:
            return
        self._answered_at[worker_id] = now
        if not failure:
            return
        self._rests_until[worker_id] = now + TUNING.backoff_s  # given no command meanwhile
        # A start that was refused leaves it cold: whether to try again, or another, is decided at the next tick.
        was_cold = worker.state in (State.STARTING, State.UPDATE_STARTING)
        goal = Goal.COLD if was_cold and worker.goal is Goal.HOT else worker.goal
        self._put(replace(worker, message=failure[:500], goal=goal))
        self._outbox.say(Level.INFO0, f"its command was refused: {failure}", worker)
        if blame:
            self._blame(worker, now)
        self._see(worker_id, Observation.FAILED, now)

    def ask_update(self, group_id: WorkergroupId, now: float) -> None:
        """Asks for an update of every worker that a workergroup has.

        What nobody was asked to make yet will be made from the present template, and what failed will be replaced.
        """
        due = [w for w in self.of_group(group_id) if can_be_updated(w)]
        for worker in due:
            self._put(replace(worker, outdated_at=now))
        self.estimator.group_failures.pop(group_id, None)  # what comes now may be the cure
        self._outbox.say(Level.INFO1, f"workergroup {group_id} is updated: {len(due)} workers")

    def cancel_update(self, group_id: WorkergroupId) -> None:
        """Calls off the updates that have not begun: those workers stay as they are."""
        for worker in self.of_group(group_id):
            goal = goal_beyond_update(worker.state) if worker.goal is Goal.UPDATED else worker.goal
            self._put(replace(worker, outdated_at=0.0, goal=goal))
        self._outbox.say(Level.INFO1, f"the update of workergroup {group_id} is called off")
        self.work.membership_changed()

    def updated(self, worker_id: WorkerId) -> None:
        """Notes that a worker's instance runs what its template says now; not if it was asked for again meanwhile."""
        worker = self.workers[worker_id]
        if worker.state in UPDATING and worker.outdated_at <= worker.since:
            self._put(replace(worker, outdated_at=0.0))

    # -- what is written down ------------------------------------------------------------------------------------------

    def take_changes(self, everything: bool = False) -> tuple[Worker, ...]:
        """Workers that changed, but for what they spent, since they were last taken; all of them for `everything`."""
        rows = {i: gone or self.workers[i] for i, gone in self._unsaved.items()}
        if everything:
            self.accrue(self._advanced_at)
            rows |= self.workers
        self._unsaved = {}
        return tuple(rows.values())

    def give_back(self, rows: Iterable[Worker]) -> None:
        """Takes back changes that could not be stored."""
        for row in rows:
            self._unsaved.setdefault(row.id, row if row.id not in self.workers else None)

    # -- questions -----------------------------------------------------------------------------------------------------

    def has_changes(self) -> bool:
        """True if there is something to be written down."""
        return bool(self._unsaved)

    def of_group(self, group_id: WorkergroupId) -> list[Worker]:
        return [w for w in self.workers.values() if w.group_id == group_id]

    def reported_at(self, worker_id: WorkerId) -> float:
        """When the worker last reported, or this server began; 0 if never."""
        return self._reported_at.get(worker_id, 0.0)

    def resting(self, now: float) -> frozenset[WorkerId]:
        """Workers whose command was refused a moment ago."""
        return frozenset(i for i, until in self._rests_until.items() if until > now)

    def spent_usd(self) -> float:
        """Dollars spent until the latest tick or change of state, by every worker that ever was."""
        since_h = max(0.0, self._advanced_at - self._accrued_at) / SECONDS_PER_HOUR
        return self.spent_gone_usd + sum(w.spent_usd + w.usd_h() * since_h for w in self.workers.values())

    def _drains(self, worker: Worker, now: float) -> bool:
        """True while requests on the worker should be let finish. A failed one that still reports gets a while."""
        if worker.state is State.ERROR:
            reports = now - self._reported_at.get(worker.id, 0.0) < FAILED_DRAIN_S
            return reports and now - worker.since < FAILED_DRAIN_S and self.work.busy(worker.id)
        return self.work.busy(worker.id)

    # -- inside --------------------------------------------------------------------------------------------------------

    def accrue(self, now: float) -> None:
        """Adds up what each worker has spent."""
        span_s = now - self._accrued_at
        if span_s > 0:
            self._accrued_at = now
            for worker in self.workers.values():
                self._traffic.passed(worker, span_s)
            self.workers = {i: w.with_spend(span_s) for i, w in self.workers.items()}

    def _put(self, worker: Worker) -> None:
        if self.workers.get(worker.id) != worker:
            self.workers[worker.id] = worker
            self._unsaved[worker.id] = None

    def _see(self, worker_id: WorkerId, observation: Observation, now: float) -> None:
        worker = self.workers[worker_id]
        state = after_observation(worker.state, observation)
        if state is None:
            self._counters.late_observations += worker.state not in NOTHING_NEW.get(observation, ())
        elif state is not worker.state:
            lost = state in (State.ERROR, State.UNAVAIL, State.DESTROYED) and worker.state in COMING
            if lost and observation is not Observation.FAILED:  # for a failed command, its answer says whom to blame
                taken_away = observation is Observation.ABSENT
                self._blame(worker, now, "" if taken_away or worker.loaded_at else worker.machine)
            elif state in (State.ERROR, State.DESTROYED) and worker.state in (State.IDLE, State.UNAVAIL):
                self.estimator.failed(worker, now)  # it died at work, or was taken away
            self._enter(worker_id, state, now, observation)

    def _enter(self, worker_id: WorkerId, state: State, now: float, why: Event) -> None:
        self.accrue(now)
        self.moves += 1
        before = self.workers[worker_id]
        worker = replace(before, state=state, since=now, progressed_at=now)
        if why is Observation.REPORTED_READY:
            worker = self._arrived(before, worker, now)
        self._put(worker)
        self._outbox.append(Moved(before, worker, why))
        gone = state is State.DESTROYED
        if state in UPDATING or state is State.STOPPED or gone:
            self.work.worker_left(worker_id, now, for_good=gone)
        if gone:
            self.spent_gone_usd += worker.spent_usd
            self._unsaved[worker_id] = self.workers.pop(worker_id)
            self._progress.forget(worker_id)
            for memory in (self._reported_at, self._answered_at, self._rests_until):
                memory.pop(worker_id, None)
            self.in_flight.discard(worker_id)
        self.work.membership_changed()

    def _arrived(self, before: Worker, worker: Worker, now: float) -> Worker:
        took_s = self.estimator.arrived(before, worker, now)
        if took_s is None:
            return worker
        if before.state not in UPDATING:
            self._traffic.became_ready(took_s, created=before.state is not State.STARTING)
        return replace(worker, loaded_at=worker.loaded_at or now, load_s=took_s, message="")

    def _blame(self, worker: Worker, now: float, machine: str = "") -> None:
        if self.estimator.blame(worker, now, machine):
            machines = self.estimator.group_failures[worker.group_id].machines
            text = f"workergroup {worker.group_id} failed on {len(machines)} machines: see what its template runs"
            self._outbox.say(Level.INFO0, text, worker)

    def _note_progress(self, worker_id: WorkerId, source: str, text: str, now: float) -> None:
        if worker_id in self.workers and self._progress.changed(worker_id, source, text):
            self.workers[worker_id] = replace(self.workers[worker_id], progressed_at=now)
