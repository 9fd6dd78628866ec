"""A number from outside moves nothing beyond what one request, or one worker, can honestly be."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import structs

from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.reports import Ended
from posthouse.domain.worker import WorkerId
from posthouse.engine.hub import Hub
from posthouse.engine.router import Router
from posthouse.fleet.claims import BEYOND, LEARNED, Claims
from posthouse.fleet.events import Waiting
from posthouse.fleet.ledger import AtWorker, Request
from posthouse.fleet.requests import UNSEEN_S
from posthouse.ports import Store
from posthouse.wire import route
from posthouse.wire.checks import MAX_WORK
from tests.kit.fleets import NOW, ONE, SILENT_S, TWO, Fleet, assigned, fleet_of, ready_report, worker

PERF, MAX_QUEUE_S, TARGET_S = 100.0, 30.0, 10.0


def fleet() -> Fleet:
    return fleet_of(worker(), max_queue_time=MAX_QUEUE_S, target_queue_time=TARGET_S)


def serve(fleet: Fleet, cost: float, took_s: float, counted: float | None = None, at: float = NOW) -> float:
    """One request from its beginning to its end; when it has ended."""
    idx = assigned(fleet.assign(0, cost, at)).request_idx
    fleet.report(ONE, structs.replace(ready_report(working=[idx]), taken=cost if counted is None else counted), at + 1)
    fleet.end(ONE, Ended(idx, True, "Success"), at + took_s)
    fleet.report(ONE, ready_report(), at + took_s)
    return at + took_s


def shown_by(worker_id: WorkerId, announced: float) -> Request:
    """A request that a worker begins with."""
    return Request(1, announced, NOW, NOW, announced, worker_id)


def test_a_request_counts_no_more_than_its_worker_does_while_one_may_wait() -> None:
    one = fleet()
    found = assigned(one.assign(0, MAX_WORK, NOW))
    assert one.work == {ONE: PERF * MAX_QUEUE_S * BEYOND}
    demand = one.snapshot(NOW + 5, ()).demand
    assert demand.rate == pytest.approx(PERF * TARGET_S / 59, rel=0.2)
    one.report(ONE, ready_report(working=[found.request_idx]), NOW + 1)
    assert isinstance(one.assign(0, 1, NOW + 1), Waiting), "its worker has it: it may be as large as it says"


def test_a_request_that_its_worker_does_not_show_counts_a_second_of_it() -> None:
    one = fleet()
    assigned(one.assign(0, MAX_WORK, NOW))
    assert isinstance(one.assign(0, 1, NOW + 1), Waiting)
    one.advance(NOW + UNSEEN_S, SILENT_S)
    assert one.work[ONE] <= PERF + 1, "nobody has told of it"
    one.report(ONE, ready_report(), NOW + UNSEEN_S + 1)
    assert one.work == {ONE: PERF}, "its worker says that it does not have it"
    assert assigned(one.assign(0, 1, NOW + UNSEEN_S + 1)).worker.id == ONE


def test_one_that_comes_late_counts_again() -> None:
    one = fleet()
    found = assigned(one.assign(0, 2000, NOW))
    one.advance(NOW + UNSEEN_S, SILENT_S)
    assert one.work == {ONE: PERF}
    one.report(ONE, ready_report(working=[found.request_idx]), NOW + 9)
    assert one.work == {ONE: 2000}


def test_a_request_that_is_asked_for_again_counts_in_full_at_the_next_worker() -> None:
    two = fleet_of(worker(), worker(TWO))
    found = assigned(two.assign(0, 2000, NOW))
    two.advance(NOW + UNSEEN_S, SILENT_S)
    other = assigned(two.assign(found.request_idx, 2000, NOW + 6)).worker.id
    assert two.work == {other: 2000}
    assert other != found.worker.id


def test_one_as_large_as_was_done_before_counts_in_full() -> None:
    one, at = fleet(), NOW
    for _ in range(4):  # each took two minutes: no claim, for its worker was at it
        at = serve(one, 12_000, 120, at=at) + 1
    assert one.requests.claims.largest == pytest.approx(12_000, rel=0.05)
    assigned(one.assign(0, 12_000, at))
    assert one.work == {ONE: 12_000}


def test_one_that_said_to_be_large_and_took_a_moment_was_small() -> None:
    one = fleet()
    serve(one, MAX_WORK, took_s=2)
    assert one.requests.claims.largest == 2 * PERF


def test_what_waits_before_any_worker_is_known_counts_once_one_is() -> None:
    cold = fleet_of(worker(state=State.MODEL_LOADING, goal=Goal.HOT, perf=0.0), target_queue_time=TARGET_S)
    for _ in range(3):
        cold.assign(0, MAX_WORK, NOW)
    cold.assign(0, 50, NOW)
    demand = cold.snapshot(NOW, ()).demand
    assert (demand.waiting, demand.waiting_count, demand.rate) == (4, 4, 0)
    cold.report(ONE, ready_report(), NOW + 15)
    demand = cold.snapshot(NOW + 15, ()).demand
    offered = 3 * PERF * TARGET_S + 50
    assert demand.rate * 59 == pytest.approx(offered, rel=0.02)
    assert demand.waiting + demand.outstanding <= 4 * PERF * MAX_QUEUE_S * BEYOND


def test_the_factor_between_announced_and_counted_work_is_learned() -> None:
    one, at = fleet(), NOW
    for _ in range(LEARNED + 1):
        at = serve(one, 100, 1.5, counted=1, at=at)
    one.advance(at, SILENT_S)
    claims = one.requests.claims
    assert claims.factor == pytest.approx(0.01)
    assert claims.usual == pytest.approx(1)
    assert claims.unstated(100) == pytest.approx((100, 1))
    assigned(one.assign(0, 100, at))
    assert one.work == {ONE: pytest.approx(1)}
    assert one.snapshot(at, ()).demand.factor == claims.factor


@pytest.mark.parametrize("body", [b'{"endpoint": "e", "request_idx": 0}', b'{"endpoint": "e", "cost": null}'])
def test_a_request_without_a_cost_is_taken_for_what_is_usual(body: bytes) -> None:
    one, at = fleet(), NOW
    replies: list[Any] = []
    hub = Hub(cast(Store, None), cast(Any, SimpleNamespace(now=lambda: at)), {}, "", "test", stabilization_s=0.0)
    router = Router(hub, cast(Any, SimpleNamespace(sign=str)), lambda worker_id: b"", 0.0, lambda text, then: then(""))
    router.route(one.managed, route.checked(route.decode(body)), replies.append, "", at)
    assert one.work == {ONE: route.DEFAULT_COST}
    (request,) = one.ledger.at[ONE].values()
    one.end(ONE, Ended(request.idx, True, "Success"), at)
    for _ in range(LEARNED + 1):
        at = serve(one, 100, 1.5, counted=2.5, at=at)
    one.advance(at, SILENT_S)
    router.route(one.managed, route.checked(route.decode(body)), replies.append, "", at)
    assert [reply.cost for reply in replies] == [100, pytest.approx(2.5, rel=0.15)]
    assert one.work == {ONE: pytest.approx(2.5, rel=0.15)}


def test_a_key_pays_for_a_request_without_a_cost_as_much_where_it_was_held_open() -> None:
    one, at = fleet(), NOW
    for _ in range(LEARNED + 1):
        at = serve(one, 100, 1.5, counted=1, at=at)
    one.advance(at, SILENT_S)
    hub = Hub(cast(Store, None), cast(Any, SimpleNamespace(now=lambda: at)), {}, "", "test", stabilization_s=0.0)
    router = Router(hub, cast(Any, SimpleNamespace(sign=str)), lambda worker_id: b"", 60.0, lambda text, then: then(""))

    def ask(caller: str) -> None:
        router.route(one.managed, route.checked(route.decode(b'{"endpoint": "e"}')), lambda reply: None, caller, at)

    ask("at once")
    full = assigned(one.assign(0, MAX_WORK, at)).request_idx
    ask("held")
    assert "held" not in one.managed.costs.asked
    one.end(ONE, Ended(full, True, "Success"), at)
    assert one.managed.costs.asked == {"at once": pytest.approx(100), "held": pytest.approx(100)}


def test_what_one_worker_of_several_counts_does_not_move_it() -> None:
    claims = Claims()
    claims.best_perf = PERF
    at = {WorkerId(i): AtWorker(WorkerId(i), 0) for i in range(1, 5)}
    for liar, taken in ((WorkerId(3), MAX_WORK), (WorkerId(4), 1e-9)):
        for _ in range(100):
            for worker_id, counted in ((ONE, 50), (TWO, 50), (liar, taken)):
                claims.shown(shown_by(worker_id, 50), at[worker_id])
                claims.counted(at[worker_id], counted)
            claims.learn(at.values())
            assert claims.work(50) == 50
        at[liar] = AtWorker(liar, 0)


def test_nothing_is_learned_of_one_who_counts_nothing_or_of_requests_without_cost() -> None:
    claims, there = Claims(), AtWorker(ONE, 0)
    for announced, counted in ((100.0, 0.0), (0.0, 100.0)):
        for _ in range(100):
            claims.shown(shown_by(ONE, announced), there)
            claims.counted(there, counted)
            claims.learn([there])
        there = AtWorker(ONE, 0)
    assert (claims.factor, claims.usual) == (1.0, 0.0)
