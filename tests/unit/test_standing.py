"""When a worker is expected: from what is learned, and nothing where nobody can tell."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling
from posthouse.domain.lifecycle import State
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine.estimate import expected as expected_of
from posthouse.engine.managed import Expected
from posthouse.fleet.events import Waiting
from tests.kit.fleets import NOW, ONE, TWO, Fleet, fleet_of, worker


def expected(*workers: Worker, later_s: float = 0.0, **learned: Sequence[float]) -> Expected:
    fleet = Fleet(Endpoint(EndpointId(1), "e", Scaling()), NOW, workers)
    for name, took_s in learned.items():
        getattr(fleet.roster.estimator, name).extend(took_s)
    return expected_of(fleet.managed, NOW + later_s)


def never_ready(worker_id: WorkerId) -> Worker:
    return replace(worker(worker_id, State.MODEL_LOADING), loaded_at=0.0)


ALIKE = [119, 122, 126, 128, 130, 130, 132, 134, 138, 141] * 2


def test_one_that_comes_takes_as_long_as_others_took() -> None:
    loading, starting = never_ready(ONE), worker(TWO, State.STARTING)  # the one for 100 s
    found = expected(loading, create_s=ALIKE)
    assert found.in_s == pytest.approx(30, abs=1)
    assert 10 < found.from_s < 20
    assert 40 < found.by_s < 55
    assert expected(loading, later_s=10, create_s=ALIKE).in_s == pytest.approx(20, abs=1)
    both = expected(loading, starting, create_s=ALIKE, start_s=[7] * 20)
    assert both.in_s == pytest.approx(7, abs=1)


def test_the_first_of_several_comes_sooner_than_each() -> None:
    many = [never_ready(WorkerId(number)) for number in range(1, 9)]
    one, first = expected(many[0], create_s=ALIKE), expected(*many, create_s=ALIKE)
    assert first.in_s < one.in_s
    assert first.by_s < one.in_s + 1


def test_one_that_is_late_comes_later_and_nobody_knows_when() -> None:
    late = expected(never_ready(ONE), later_s=60, create_s=ALIKE)
    assert 0 < late.in_s < 60
    assert late.by_s - late.from_s > 10


def test_the_less_is_known_the_less_is_said() -> None:
    loading = never_ready(ONE)
    little, much = expected(loading, create_s=[130]), expected(loading, create_s=[130] * 20)
    assert little.by_s - little.from_s > 2 * (much.by_s - much.from_s)
    assert expected(loading) == expected() == Expected()


def test_what_is_at_ready_workers_and_waits_is_shared_by_them() -> None:
    fleet = fleet_of(worker(ONE), worker(TWO), max_queue_time=0.1)
    assert expected_of(fleet.managed, NOW).in_s == 0
    waits = [isinstance(fleet.assign(0, 50.0, NOW), Waiting) for _ in range(4)]
    assert waits == [False, False, True, True]
    assert expected_of(fleet.managed, NOW).in_s == pytest.approx(fleet.ledger.outstanding() * 2 / 200)
