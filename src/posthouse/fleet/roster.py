"""The lives of one endpoint's workers: what is seen of each, what is wanted, which commands follow, what was spent."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from posthouse.domain.address import believed
from posthouse.domain.decision import Rental
from posthouse.domain.endpoint import EndpointId
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import (
    COMING,
    DEATHS,
    NOTHING_NEW,
    STATE_TIMEOUT_S,
    TRANSITIONS,
    UPDATING,
    Command,
    Event,
    Goal,
    Observation,
    State,
    after_command,
    goal_beyond_update,
    next_command,
    overdue,
)
from posthouse.domain.offer import SECONDS_PER_HOUR
from posthouse.domain.reports import Report
from posthouse.domain.rollout import Rollout
from posthouse.domain.worker import Worker, WorkerId
from posthouse.fleet.estimator import Estimator
from posthouse.fleet.events import Counters, Level, Moved, Outbox
from posthouse.fleet.rollouts import Rollouts
from posthouse.fleet.throughput import Throughput
from posthouse.policy.tuning import TUNING

UNCLEAR_S = 30.0
"""How long after a creation with an unknown outcome an instance that is not listed may still appear."""
FAILED_DRAIN_S = 60.0
"""How long a worker that reported an error may finish what it has: it often serves on."""
UNSENT = {(State.STOPPING, Observation.RUNNING), (State.STARTING, Observation.HALTED)}
"""As what a list shows a worker whose command did not leave before the server died: it is given again."""
MIN_GROWTH_GB = 0.001
"""Growth of a worker's disk that counts as progress."""


@dataclass(slots=True)
class _Watched:
    """What is remembered of a worker beside its row."""

    reported_at: float = 0.0
    answered_at: float = 0.0
    rests_until: float = 0.0
    """A command was refused: until then it is given none."""
    drains: bool = False
    """A person wants it to rest: it is not woken before it has."""
    restored: bool = False
    """It is of an earlier life, and no list has shown it since."""
    in_flight: bool = False
    """It has a command that was not answered yet."""
    away_at: float = 0.0
    """Since when lists show its machine to be away; 0 if they do not."""
    loading_s: float = 0.0
    """How long it may load, where its template says that."""
    ran: str = ""
    """The version that it ran before its update."""
    progress: dict[str, str] = field(default_factory=dict)
    """What was last seen of its progress, by source."""


class Roster:
    """Every worker of one endpoint, from the intent to rent it until it is destroyed."""

    def __init__(
        self,
        now: float,
        endpoint_id: EndpointId,
        spent_usd: float,
        counters: Counters,
        outbox: Outbox,
        rollouts: Iterable[Rollout],
    ) -> None:
        self.workers: dict[WorkerId, Worker] = {}
        self.estimator, self.throughput, self.spent_gone_usd = Estimator(), Throughput(), spent_usd
        self.rollouts = Rollouts(rollouts, self.workers, self._change, self.estimator, outbox)
        self.moved: list[Moved] = []
        """Changes of workers' states that nobody has followed yet."""
        self.changed = True
        """Others may take requests now than before."""
        self._endpoint_id, self._born_at, self._counters, self._outbox = endpoint_id, now, counters, outbox
        self._watched: dict[WorkerId, _Watched] = {}
        self.unsaved: dict[WorkerId, Worker | None] = {}
        """Workers that changed, and the rows of those that are gone."""

    def restore(self, worker: Worker, now: float) -> None:
        """Adds a worker from before a restart; of a DESTROYED one only what it taught."""
        self.estimator.restore(worker)
        if worker.state is State.DESTROYED:
            return
        if worker.state is State.WANTED:
            # Its creation may have been asked for and never answered: look by label before anything else.
            worker = replace(worker, state=State.CREATING)
        if worker.state in STATE_TIMEOUT_S:  # nobody looked meanwhile, so its deadline begins again
            worker = replace(worker, since=now, progressed_at=now, spent_usd=worker.spent_at(now))
        self.workers[worker.id] = worker
        self._watched[worker.id] = _Watched(now, now, restored=True)

    # -- what workers and providers report -----------------------------------------------------------------------------

    def reported(self, worker_id: WorkerId, report: Report, now: float) -> bool:
        """Handles a worker's report. False if it comes from what ran before an update that has begun."""
        before, watched = self.workers[worker_id], self._watched[worker_id]
        watched.reported_at, watched.loading_s = now, report.loading_timeout_s
        if before.state in UPDATING and watched.in_flight:
            return False
        url = believed(report.url, before.url, before.addresses)
        # A report that does not speak of it goes on as it was; one of a worker that comes back is not ready yet.
        perf = report.max_perf if report.max_perf is not None else before.perf if before.state is State.IDLE else 0.0
        ready = perf > 0 and not report.error and bool(url)
        perf = min(perf, self.throughput.most(before)[0])
        foreign = f"reported an address that is not its own: {report.url[:200]}" if report.url and not url else ""
        self._counters.refused_addresses += bool(foreign)
        waits_for = report.waits_for[:500] if before.state in COMING else ""
        worker = self._change(
            before,
            version=report.version,
            scheme=report.scheme,
            url=url or before.url,
            perf=perf if ready else before.perf,
            message=report.error[:500] or waits_for or foreign or before.message,
        )
        if worker.perf != before.perf:
            self.estimator.measured(worker)
        if (before.url, before.perf) != (worker.url, worker.perf):
            self.changed = True
            text = f"reports from {worker.url}, version {worker.version or 'unknown'}, {worker.perf:g} work/s"
            self._outbox.say(Level.TRACE, text, worker)
        if worker.message != before.message and not report.error:
            self._outbox.say(Level.TRACE if report.waits_for else Level.INFO0, worker.message, worker)
        seen = Observation.REPORTED_READY if ready else Observation.REPORTED_LOADING
        self._see(worker_id, Observation.REPORTED_ERROR if report.error else seen, now)
        grew = report.disk_added_gb >= MIN_GROWTH_GB  # some generations tell the growth alone
        disk = str(now) if grew else f"{report.disk_gb:.3f}"
        self._note_progress(worker_id, "report", disk if report.progress is None else str(report.progress), now)
        return True

    def listed(self, provider: str, instances: Sequence[Instance], asked_at: float, now: float) -> None:
        """Handles a provider's complete list, asked for at `asked_at`."""
        by_label = {i.label: i for i in instances}
        by_id = {i.id: i for i in instances}
        for worker in [w for w in self.workers.values() if w.provider == provider]:
            watched = self._watched[worker.id]
            if worker.state is State.WANTED or watched.in_flight or asked_at < watched.answered_at:
                continue  # the list may be older than our last command
            instance = by_id.get(worker.instance_id, by_label.get(worker.label))
            if instance is not None:
                if watched.restored and (worker.state, instance.seen) in UNSENT:
                    self._see(worker.id, Observation.FAILED, now)
                watched.restored = False
                self.observe_instance(worker.id, instance, now)
                continue
            known = worker.instance_id and asked_at > watched.answered_at  # of the same moment, it may be older
            if known or worker.state is State.DESTROYING or asked_at >= watched.answered_at + UNCLEAR_S:
                self._see(worker.id, Observation.ABSENT, now)

    def observe_instance(self, worker_id: WorkerId, instance: Instance, now: float) -> None:
        """Handles what a provider says of a worker's instance."""
        watched = self._watched[worker_id]
        watched.away_at = (watched.away_at or now) if instance.away else 0.0
        worker = self._change(
            self.workers[worker_id],
            instance_id=instance.id,
            addresses=instance.addresses or self.workers[worker_id].addresses,
            message=instance.message or self.workers[worker_id].message,
        )
        if instance.price not in (None, worker.price):  # what it cost until now stays
            at_new_usd = replace(worker, price=instance.price).spent_at(now)
            spent_usd = worker.spent_usd + worker.spent_at(now) - at_new_usd
            self._change(worker, price=instance.price, spent_usd=spent_usd)
        self._note_progress(worker_id, "instance", instance.progress, now)
        self._see(worker_id, instance.seen, now)

    def advance(self, now: float, silent_s: float) -> None:
        """Lets time pass: silence, and deadlines, which begin with a command's answer: it may have waited its turn."""
        self.throughput.compare(self.workers.values())
        for worker in list(self.workers.values()):
            if worker.perf > (most := self.throughput.most(worker))[0]:
                text = f"said that it does {worker.perf:g} work/s: counted as {most[0]:g}, twice what {most[1]}"
                worker = self._change(worker, perf=most[0], message=text)
                self.estimator.measured(worker)
                self.changed = True
            watched = self._watched[worker.id]
            silent = now - watched.reported_at > silent_s
            loading_s = 0.0 if silent else watched.loading_s
            began_at = max(worker.since, watched.answered_at)
            if not watched.in_flight and overdue(worker.state, now, began_at, worker.progressed_at, loading_s):
                self._change(worker, message=_overdue_text(worker, loading_s, now))
                self._see(worker.id, Observation.OVERDUE, now)
            elif worker.state is State.IDLE and silent:
                self._see(worker.id, Observation.SILENT, now)

    def give_up(self, worker_id: WorkerId, why: str, now: float) -> None:
        """Has a worker replaced, whatever it says of itself."""
        worker = self._change(self.workers[worker_id], message=why)
        self._outbox.say(Level.INFO0, why, worker)
        self._see(worker_id, Observation.USELESS, now)

    # -- what is wanted, and what follows ------------------------------------------------------------------------------

    def wish(self, worker_id: WorkerId, goal: Goal, now: float) -> None:
        """Sets what a person wants of a worker; see `events.Dismissed`."""
        if (worker := self.workers.get(worker_id)) is None:
            return
        if goal is Goal.UPDATED:
            self._change(worker, outdated_at=now)
        else:
            self.set_goal(worker_id, goal)
            self._watched[worker_id].drains = goal is Goal.COLD

    def set_goal(self, worker_id: WorkerId, goal: Goal) -> None:
        if (worker := self.workers.get(worker_id)) is not None and worker.goal is not goal:
            self._change(worker, goal=goal)
            self.changed = True
            if goal is Goal.UPDATED:
                self.rollouts.goes_first(worker.group_id, worker_id)

    def rent(self, rental: Rental, worker_id: WorkerId, label: str, now: float) -> None:
        """Notes the intent to rent a worker. `label`: what every label begins with."""
        offer, build = rental.offer.offer, self.rollouts.build_for(rental, worker_id)
        worker = self.workers[worker_id] = _rented(rental, worker_id, self._endpoint_id, label, build, now)
        self.unsaved[worker_id] = None
        self._watched[worker_id] = _Watched(self._born_at, self._born_at)
        what = f"offer {offer.id} of {offer.provider} for workergroup {worker.group_id}"
        self._outbox.say(Level.INFO1, f"is wanted {rental.goal}: {what}", worker)

    def due(self, now: float, busy: Callable[[WorkerId], bool]) -> Iterator[tuple[WorkerId, Command]]:
        """The commands that move workers toward their goals, but for workers with a command on its way."""
        for worker in self.workers.values():
            watched = self._watched[worker.id]
            quiet_s = now - min(worker.since, watched.reported_at) if worker.state is State.ERROR else 0.0
            drains = quiet_s < FAILED_DRAIN_S and busy(worker.id)
            command = next_command(worker.goal, worker.state, drains, worker.capabilities)
            if command is not None and not watched.in_flight and watched.rests_until <= now:
                yield worker.id, command

    def command_sent(self, worker_id: WorkerId, command: Command, now: float) -> None:
        """Notes that a command goes out. Raises: IllegalMove if the tables do not allow it."""
        worker = self.workers[worker_id]
        state = after_command(worker.state, command)
        if command is Command.UPDATE:
            self._watched[worker_id].ran = worker.build
            self._change(worker, goal=goal_beyond_update(worker.state), build=self.rollouts.of(worker).next)
            self.changed = True
        self._watched[worker_id].in_flight = True
        self._enter(worker_id, state, now, command)

    def command_answered(self, worker_id: WorkerId, now: float, failure: str = "", blame: bool = True) -> None:
        """Notes that a command has been answered. `failure`, `blame`: see `events.Answered`."""
        if (worker := self.workers.get(worker_id)) is None:
            return
        watched = self._watched[worker_id]
        watched.in_flight, watched.answered_at = False, now
        if not failure:
            return
        watched.rests_until = now + TUNING.backoff_s
        # A start that was refused leaves it cold: whether to try again, or another, is decided at the next tick.
        was_cold = worker.state in (State.STARTING, State.UPDATE_STARTING)
        goal = Goal.COLD if was_cold and worker.goal is Goal.HOT else worker.goal
        refused = self._change(worker, message=failure[:500], goal=goal)
        self._outbox.say(Level.INFO0, f"its command was refused: {failure}", worker)
        if blame:
            self._blame(refused, now)
        if worker.state in UPDATING:
            self._change(self.workers[worker_id], build=watched.ran)
        self._see(worker_id, Observation.FAILED, now)

    def updated(self, worker_id: WorkerId) -> None:
        """Notes that a worker's instance runs what its template says now; not if it was asked for again meanwhile."""
        worker = self.workers[worker_id]
        if worker.state in UPDATING and worker.outdated_at <= worker.since:
            self._change(worker, outdated_at=0.0)

    # -- what is written down ------------------------------------------------------------------------------------------

    def take_changes(self) -> tuple[Worker, ...]:
        """Workers that changed since they were last taken, but for signs of progress."""
        rows, self.unsaved = tuple(gone or self.workers[i] for i, gone in self.unsaved.items()), {}
        return rows

    def give_back(self, rows: Iterable[Worker]) -> None:
        """Takes back changes that could not be stored."""
        for row in rows:
            self.unsaved.setdefault(row.id, row if row.id not in self.workers else None)

    # -- questions -----------------------------------------------------------------------------------------------------

    def reported_at(self, worker_id: WorkerId) -> float:
        """When the worker last reported, or this server began; 0 if it is gone."""
        return self._watched[worker_id].reported_at if worker_id in self._watched else 0.0

    def resting(self, now: float) -> frozenset[WorkerId]:
        """Workers whose command was refused a moment ago, or that a person wants to rest and that do not yet."""
        return frozenset(i for i, watched in self._watched.items() if watched.rests_until > now or watched.drains)

    def spent_usd(self, now: float) -> float:
        """Dollars spent until now by every worker that ever was."""
        return self.spent_gone_usd + sum(w.spent_at(now) for w in self.workers.values())

    # -- inside --------------------------------------------------------------------------------------------------------

    def _change(self, worker: Worker, **values: Any) -> Worker:
        """Returns a worker with these values, to be written down if any of them is new."""
        for name, value in values.items():
            if getattr(worker, name) != value:
                changed = self.workers[worker.id] = replace(worker, **values)
                self.unsaved[worker.id] = None
                return changed
        return worker

    def _see(self, worker_id: WorkerId, observation: Observation, now: float) -> None:
        worker = self.workers[worker_id]
        state = TRANSITIONS[worker.state].get(observation)
        if state is None:
            self._counters.late_observations += worker.state not in NOTHING_NEW.get(observation, ())
        elif state is not worker.state:
            if worker.state is State.IDLE and observation in (*DEATHS, Observation.USELESS):
                self.rollouts.failed(worker, worker.message or "it ended", now, died=True)
            lost = state in (State.ERROR, State.UNAVAIL, State.DESTROYED) and worker.state in COMING
            if lost and observation is not Observation.FAILED:  # for a failed command, its answer says whom to blame
                innocent = observation is Observation.ABSENT or worker.loaded_at
                self._blame(worker, now, "" if innocent else worker.machine)
            elif state in (State.ERROR, State.DESTROYED) and worker.state in (State.IDLE, State.UNAVAIL):
                self.estimator.failed(worker, now)  # it died at work, or was taken away
                self._change(self.workers[worker_id], failed_at=now)
            self._enter(worker_id, state, now, observation)

    def _enter(self, worker_id: WorkerId, state: State, now: float, why: Event) -> None:
        before = self.workers[worker_id]
        worker = replace(before, state=state, since=now, progressed_at=now, spent_usd=before.spent_at(now))
        if why is Observation.REPORTED_READY and (took_s := self.estimator.arrived(before, worker, now)) is not None:
            worker = replace(worker, loaded_at=worker.loaded_at or now, load_s=took_s, message="")
            self.rollouts.arrived(worker)
        if state is State.DESTROYED and (away_at := self._watched[worker_id].away_at):  # it might have come back
            over_usd = (before.usd_h() - before.price.stopped_usd_h) * (now - away_at) / SECONDS_PER_HOUR
            worker = replace(worker, spent_usd=worker.spent_usd - over_usd)
        self.workers[worker_id] = worker
        self.unsaved[worker_id] = None
        self._watched[worker_id].drains &= state is State.STOPPING
        self.moved.append(moved := Moved(before, worker, why))
        self._outbox.append(moved)
        if state is State.DESTROYED:
            self.spent_gone_usd += worker.spent_usd
            self.unsaved[worker_id] = self.workers.pop(worker_id)
            del self._watched[worker_id]

    def _blame(self, worker: Worker, now: float, machine: str = "") -> None:
        if self.rollouts.failed(worker, worker.message, now):
            self.estimator.failed(worker, now)
        elif self.estimator.blame(worker, now, machine):
            machines = self.estimator.group_failures[worker.group_id].machines
            text = f"workergroup {worker.group_id} failed on {len(machines)} machines: see what its template runs"
            self._outbox.say(Level.INFO0, text, worker)
        self._change(self.workers[worker.id], failed_at=now)

    def _note_progress(self, worker_id: WorkerId, source: str, text: str, now: float) -> None:
        if (watched := self._watched.get(worker_id)) is not None and watched.progress.get(source) != text:
            watched.progress[source] = text
            self.workers[worker_id] = replace(self.workers[worker_id], progressed_at=now)


def _rented(rental: Rental, worker_id: WorkerId, endpoint_id: EndpointId, label: str, build: str, now: float) -> Worker:
    offer = rental.offer.offer
    return Worker(
        id=worker_id,
        endpoint_id=endpoint_id,
        group_id=rental.offer.group_id,
        label=f"{label}{worker_id}",
        provider=offer.provider,
        offer_id=offer.id,
        machine=offer.machine,
        gpu_name=offer.gpu_name,
        num_gpus=offer.num_gpus,
        zone=offer.zone,
        price=offer.price,
        capabilities=offer.capabilities,
        created_at=now,
        goal=rental.goal,
        since=now,
        progressed_at=now,
        build=build,
    )


def _overdue_text(worker: Worker, loading_s: float, now: float) -> str:
    how = f", longer than loading_timeout_s {loading_s:g}" if loading_s and worker.state in COMING else ""
    return f"{worker.state} for {now - worker.since:.0f} s{how or ' without progress'}: {worker.message}".rstrip(": ")
