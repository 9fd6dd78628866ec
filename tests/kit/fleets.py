"""Fleets, workers and what happens to them, in a few words."""

from collections.abc import Iterable

from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Goal, Observation, State
from posthouse.domain.load import Report
from posthouse.domain.offer import GroupOffer, Offer, Price
from posthouse.domain.plan import Decision, Memory, Rental
from posthouse.domain.worker import Worker, WorkerId
from posthouse.domain.workergroup import WorkergroupId
from posthouse.fleet.fleet import (
    Assignment,
    Fleet,
    Waiting,
)

NOW = 1_700_000_000.0
SILENT_S = 45.0
ONE, TWO = WorkerId(1), WorkerId(2)
GROUP = WorkergroupId(7)
PRICE = Price(ready_usd_h=1.2, loading_usd_h=0.6, stopped_usd_h=0.1)


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
    return Decision(NOW, 0, 0, 0, {}, (Rental(GROUP, offer, Goal.HOT),) * number, Memory(), ())


def ready_report(worker_id: WorkerId = ONE, perf: float = 100.0, working: Iterable[int] = ()) -> Report:
    return Report(perf, "", f"http://10.0.0.{worker_id}:8000", "1.1.0", "U", frozenset(working))


def instance(worker_id: WorkerId = ONE, seen: Observation = Observation.RUNNING, progress: str = "") -> Instance:
    return Instance(f"i{worker_id}", f"test-{worker_id}", seen, frozenset({f"10.0.0.{worker_id}:8000"}), 0.0, progress)


def assigned(outcome: Assignment | Waiting) -> Assignment:
    assert isinstance(outcome, Assignment), outcome
    return outcome
