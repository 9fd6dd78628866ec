"""Fleets, workers and what happens to them, in a few words."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from posthouse.domain.decision import Decision, Memory, Rental
from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling, WorkergroupId
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Command, Goal, Observation, State
from posthouse.domain.offer import GroupOffer, Offer, Price
from posthouse.domain.reports import Ended, Report
from posthouse.domain.rollout import Rollout
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine.history import History
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.measured import Log
from posthouse.engine.router import statuses
from posthouse.engine.worker_stats import WorkerStats
from posthouse.fleet.controller import Controller
from posthouse.fleet.events import (
    Assignment,
    Configured,
    Event,
    Failed,
    Left,
    Listed,
    Released,
    Reported,
    RequestsEnded,
    UpdateAsked,
    Waiting,
)
from posthouse.fleet.ledger import Request
from posthouse.policy.trial import can_be_updated
from posthouse.recording.log import Slice

NOW = 1_700_000_000.0
SILENT_S = 45.0
ONE, TWO = WorkerId(1), WorkerId(2)
GROUP = WorkergroupId(7)
PRICE = Price(ready_usd_h=1.2, loading_usd_h=0.6, stopped_usd_h=0.1)


class Fleet(Controller):
    """A controller, told call by call, also of what it does between two events: its parts are tested through it."""

    def __init__(
        self,
        endpoint: Endpoint,
        now: float,
        workers: Iterable[Worker] = (),
        stabilization_s: float = 0.0,
        spent_usd: float = 0.0,
        rollouts: Iterable[Rollout] = (),
    ) -> None:
        rows = tuple(workers)
        self.now = now
        self.log = Log(now, sum(w.state is not State.DESTROYED for w in rows))
        own: dict[str, Any] = {"label": "test-", "silent_s": SILENT_S, "traffic": self.log}
        super().__init__(endpoint, now, rows, stabilization_s, spent_usd, rollouts=rollouts, **own)
        self.delivered: list[tuple[int, Assignment | Waiting]] = []
        self.managed = ManagedEndpoint(self, self.log)
        self.done(now)

    def done(self, now: float) -> None:
        """Has done what was asked for."""
        self.now = max(self.now, now)
        self._follow(now)
        self.managed.perform(None, now)

    def told(self, event: Event, now: float) -> None:
        self.now = max(self.now, now)
        self.managed.handle(event, now)
        self.validate()

    # -- what happens --------------------------------------------------------------------------------------------------

    def report(self, worker_id: WorkerId, report: Report, now: float) -> None:
        self.told(Reported(worker_id, report), now)

    def end(self, worker_id: WorkerId, ended: Ended, now: float) -> bool:
        before = self.counters.refused_ends
        self.told(RequestsEnded(worker_id, (ended,)), now)
        return self.counters.refused_ends == before

    def failed(self, worker_id: WorkerId, idx: int, why: str, now: float) -> bool:
        before = self.counters.refused_ends
        self.told(Failed(idx, worker_id, why), now)
        return self.counters.refused_ends == before

    def forget(self, idx: int) -> None:
        self.told(Left(idx), self.now)

    def observe(self, provider: str, instances: Sequence[Instance], asked_at: float, now: float) -> None:
        self.told(Listed(provider, tuple(instances), asked_at), now)

    def configure(self, endpoint: Endpoint) -> None:
        self.told(Configured(endpoint), self.now)

    def ask_update(self, group_id: WorkergroupId, now: float) -> int:
        self.told(UpdateAsked(group_id), now)
        return sum(can_be_updated(w) for w in self.managed.of_group(group_id))

    def cancel_update(self, group_id: WorkergroupId, now: float) -> None:
        self.told(UpdateAsked(group_id, wanted=False), now)

    def release(self) -> None:
        self.told(Released(), self.now)

    # -- what it does between two events -------------------------------------------------------------------------------

    def advance(self, now: float, silent_s: float) -> None:
        self.roster.advance(now, silent_s)
        self._follow(now)
        self.requests.expire(now)
        self.requests.serve(now)
        self.done(now)

    def let_go(self, now: float) -> float | None:
        self.requests.let_go(now)
        self.done(now)
        return self.ledger.next_end if self.ledger.line else None

    def observe_instance(self, worker_id: WorkerId, instance: Instance, now: float) -> None:
        self.roster.observe_instance(worker_id, instance, now)
        self.done(now)

    def tick(
        self, decision: Decision, now: float, ids: Iterator[WorkerId], label: str
    ) -> tuple[tuple[WorkerId, Command], ...]:
        self._label = label
        self._apply_decision(decision, ids, now)
        self.requests.serve(now)
        self.done(now)
        return self.due(now)

    def due(self, now: float) -> tuple[tuple[WorkerId, Command], ...]:
        return tuple(self.roster.due(now, self.requests.keeps))

    def set_goal(self, worker_id: WorkerId, goal: Goal) -> None:
        self.roster.set_goal(worker_id, goal)
        self.done(self.now)

    def command_sent(self, worker_id: WorkerId, command: Command, now: float) -> None:
        try:
            self.roster.command_sent(worker_id, command, now)
        finally:
            self.done(now)

    def command_answered(self, worker_id: WorkerId, now: float, failure: str = "", blame: bool = True) -> None:
        self.roster.command_answered(worker_id, now, failure, blame)
        self.done(now)

    def updated(self, worker_id: WorkerId) -> None:
        self.roster.updated(worker_id)

    def take_changes(self, everything: bool = False) -> tuple[Worker, ...]:
        rows = self.roster.take_changes()
        return tuple(self.workers.values()) if everything else rows

    def give_back(self, rows: Iterable[Worker]) -> None:
        self.roster.give_back(rows)

    # -- what surrounds it ---------------------------------------------------------------------------------------------

    @property
    def work(self) -> dict[WorkerId, float]:
        """At each worker that has requests."""
        return {worker_id: there.work for worker_id, there in self.ledger.at.items()}

    @property
    def line(self) -> list[Request]:
        return self.ledger.line

    def statuses(self) -> str:
        return statuses(self.workers.values())

    @property
    def spent_gone_usd(self) -> float:
        return self.roster.spent_gone_usd

    @property
    def history(self) -> History:
        self.done(self.now)
        return self.managed.history

    @property
    def traffic_log(self) -> Log:
        return self.log

    def drain_traffic(self, now: float) -> Slice:
        return self.managed.drain_traffic(now)

    def copy_traffic(self, now: float) -> Slice:
        return self.managed.copy_traffic(now)

    def worker_stats(self, worker_id: WorkerId) -> WorkerStats:
        return self.managed.worker_stats(worker_id)

    def mean_load(self, worker_id: WorkerId, now: float) -> float:
        return self.managed.mean_load(worker_id, now)


def worker(worker_id: WorkerId = ONE, state: State = State.IDLE, goal: Goal = Goal.HOT, perf: float = 100.0) -> Worker:
    """A worker that has been ready at least once."""
    return Worker(
        id=worker_id,
        endpoint_id=EndpointId(1),
        group_id=GROUP,
        label=f"test-{worker_id}",
        provider="sim",
        offer_id="o",
        machine=f"m{worker_id}",
        gpu_name="GPU",
        num_gpus=1,
        price=PRICE,
        created_at=NOW - 100,
        state=state,
        goal=goal,
        since=NOW - 50,
        progressed_at=NOW - 50,
        instance_id=f"i{worker_id}",
        addresses=frozenset({f"10.0.0.{worker_id}:8000"}),
        url=f"http://10.0.0.{worker_id}:8000",
        version="1.1.0",
        scheme="U",
        perf=perf,
        loaded_at=NOW - 60,
    )


def fleet_of(*workers: Worker, stabilization_s: float = 0.0, **scaling: float) -> Fleet:
    return Fleet(Endpoint(EndpointId(1), "e", Scaling(**scaling)), NOW, workers, stabilization_s)  # type: ignore[arg-type]


def new_fleet() -> Fleet:
    """A fleet with one worker, WANTED."""
    fleet = fleet_of()
    fleet.tick(decision_to_rent(1), NOW, iter([ONE, TWO]), "test-")
    return fleet


def decision_to_rent(number: int) -> Decision:
    offer = GroupOffer(GROUP, Offer("o", "sim", "m", PRICE, "GPU", 1, available=9))
    return Decision(NOW, 0, 0, 0, {}, (Rental(offer, Goal.HOT),) * number, Memory(), ())


def ready_report(worker_id: WorkerId = ONE, perf: float = 100.0, working: Iterable[int] = ()) -> Report:
    return Report(perf, "", f"http://10.0.0.{worker_id}:8000", "1.1.0", "U", frozenset(working))


def instance(worker_id: WorkerId = ONE, seen: Observation = Observation.RUNNING, progress: str = "") -> Instance:
    return Instance(f"i{worker_id}", f"test-{worker_id}", seen, frozenset({f"10.0.0.{worker_id}:8000"}), 0.0, progress)


def assigned(outcome: Assignment | Waiting) -> Assignment:
    assert isinstance(outcome, Assignment), outcome
    return outcome
