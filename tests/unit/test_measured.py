"""What is counted of an endpoint's requests, starts and decisions."""

from dataclasses import replace

import pytest

from posthouse.domain.decision import Decision, Memory, Obstacle, Reason
from posthouse.domain.endpoint import Endpoint, EndpointId
from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.worker import WorkerId
from posthouse.engine.measured import Measured
from tests.kit.fleets import NOW, ONE, Fleet, decision_to_rent, ready_report, worker

ENDPOINT = Endpoint(EndpointId(1), "e")


def test_requests_that_had_a_worker_at_once_waited_for_nothing() -> None:
    fleet = Fleet(ENDPOINT, NOW, [worker()])
    for number in range(3):
        fleet.assign(0, 1.0, NOW + number)
    waits = fleet.log.waits(fleet.ledger)
    assert (waits.counts[0], waits.count, waits.sum) == (3, 3, 0.0)
    fleet.log.drain(NOW + 4, ())
    assert fleet.log.waits(fleet.ledger).count == 3, "however often the log is drained"


def test_a_request_that_waits_counts_when_it_has_a_worker_and_not_if_it_gives_up() -> None:
    fleet = Fleet(ENDPOINT, NOW, [replace(worker(state=State.STARTING), since=NOW)])
    served, left = (fleet.assign(0, 1.0, NOW, True, 60.0).request_idx for _ in range(2))
    fleet.managed.measured.found_none(fleet, NOW)
    assert fleet.log.waits(fleet.ledger).count == 0
    fleet.forget(left)
    fleet.report(ONE, ready_report(), NOW + 7)
    fleet.assign(served, 1.0, NOW + 7)
    waits, measured = fleet.log.waits(fleet.ledger), fleet.managed.measured
    assert (waits.count, waits.sum) == (1, 7.0)
    assert (measured.first_worker.count, measured.first_worker.sum) == (1, 7.0)
    assert {kind: (times.count, times.sum) for kind, times in measured.starts.items()} == {"cold": (1, 7.0)}
    assert {str(state): times.sum for state, times in measured.phases.items()} == {"starting": 7.0}


def test_who_waits_for_a_busy_worker_does_not_wait_for_the_first() -> None:
    fleet, measured = Fleet(ENDPOINT, NOW, [worker()]), Measured()
    measured.found_none(fleet, NOW)
    measured.moved(fleet, worker(state=State.STARTING), worker(), NOW + 3)
    assert measured.first_worker.count == 0


def test_a_start_that_fails_is_a_failed_one() -> None:
    measured = Measured()
    loading, failed = worker(state=State.MODEL_LOADING), worker(state=State.ERROR)
    measured.moved(Fleet(ENDPOINT, NOW), loading, failed, NOW + 3)
    assert (measured.failed_starts, measured.starts) == (1, {})


@pytest.mark.parametrize(
    ("goals", "because", "counted"),
    [
        ({ONE: Goal.HOT}, [Reason("need for load", 5.0), Reason("need for backlog", 9.0)], ("wake", "backlog")),
        ({ONE: Goal.HOT}, [Reason("need for load", 5.0)], ("wake", "load")),
        ({ONE: Goal.HOT}, [Reason("need for load", 0.0)], ("wake", "minimum")),
        ({ONE: Goal.COLD}, [Reason("need for load", 5.0)], ("rest", "surplus")),
        ({ONE: Goal.GONE}, [Obstacle("cost per hour", 5.0)], ("destroy", "cap")),
        ({ONE: Goal.UPDATED}, [], ("update", "update")),
        ({ONE: Goal.GONE}, [Reason("endpoint state", "stopped")], ("destroy", "state")),
    ],
)
def test_a_decision_counts_by_what_it_does_and_why(
    goals: dict[WorkerId, Goal], because: list[Reason], counted: tuple[str, str]
) -> None:
    measured = Measured()
    measured.decided(decision(goals, because))
    assert dict(measured.decisions) == {counted: 1}


def test_rentals_and_obstacles_count_once_for_each_decision() -> None:
    measured = Measured()
    obstacles = [
        Obstacle("no more hot workers", 1, "max_workers 2"),
        Obstacle("not started", 1),
        Obstacle("not started", 2),
    ]
    measured.decided(replace(decision_to_rent(2), because=(Reason("need for load", 5.0), *obstacles)))
    assert dict(measured.decisions) == {("rent", "load"): 1}
    assert dict(measured.obstacles) == {"no more hot workers": 1, "not started": 1}


def decision(goals: dict[WorkerId, Goal], because: list[Reason]) -> Decision:
    return Decision(NOW, 1.0, 1.0, 1.0, goals, (), Memory(), tuple(because))
