"""When a worker is expected: from what is learned, and nothing where nobody can tell."""

from dataclasses import replace

import pytest

from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling
from posthouse.domain.lifecycle import State
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine.verdict import ready_in_s
from posthouse.fleet.events import Waiting
from tests.kit.fleets import NOW, ONE, TWO, Fleet, fleet_of, worker


def expected(*workers: Worker, later_s: float = 0.0, **learned: float) -> float:
    fleet = Fleet(Endpoint(EndpointId(1), "e", Scaling()), NOW, workers)
    for name, took_s in learned.items():
        getattr(fleet.roster.estimator, name).append(took_s)
    return ready_in_s(fleet.managed, NOW + later_s)


def never_ready(worker_id: WorkerId) -> Worker:
    return replace(worker(worker_id, State.MODEL_LOADING), loaded_at=0.0)


def test_one_that_comes_takes_as_long_as_others_took() -> None:
    loading, starting = never_ready(ONE), worker(TWO, State.STARTING)  # the one for 100 s
    assert expected(loading, create_s=130) == 30
    assert expected(loading, starting, create_s=130, start_s=7) == 7
    assert expected(loading, later_s=20, create_s=130) == 10


def test_nobody_can_tell_before_one_has_come_or_when_it_is_late() -> None:
    loading = never_ready(ONE)
    assert expected(loading) == 0
    assert expected(loading, later_s=60, create_s=130) == 0
    assert expected() == 0


def test_what_is_at_ready_workers_and_waits_is_shared_by_them() -> None:
    fleet = fleet_of(worker(ONE), worker(TWO), max_queue_time=0.1)
    assert ready_in_s(fleet.managed, NOW) == 0
    waits = [isinstance(fleet.assign(0, 50.0, NOW), Waiting) for _ in range(4)]
    assert waits == [False, False, True, True]
    assert ready_in_s(fleet.managed, NOW) == pytest.approx(fleet.ledger.outstanding() * 2 / 200)
