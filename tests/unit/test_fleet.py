"""What a fleet remembers, told call by call."""

import json
from dataclasses import asdict, replace
from itertools import count, pairwise

import numpy as np
import pytest
from msgspec import structs

from posthouse.domain.decision import Failures, Memory
from posthouse.domain.endpoint import Endpoint, EndpointId, WorkergroupId
from posthouse.domain.lifecycle import STATE_TIMEOUT_S, Command, Goal, Observation, State
from posthouse.domain.offer import Price
from posthouse.domain.reports import Ended
from posthouse.domain.worker import Worker, WorkerId
from posthouse.errors import IllegalMove
from posthouse.fleet.controller import Controller
from posthouse.fleet.estimator import MAX_MACHINES
from posthouse.fleet.events import Assignment, Dismissed, Listed, Moved, Ticked, Waiting, WakeAt, Written
from posthouse.fleet.ledger import Request
from posthouse.fleet.requests import MAX_WAITING, UNSEEN_KEPT_S, WAITING_KEPT_S
from posthouse.fleet.roster import UNCLEAR_S
from posthouse.policy.decide import decide
from posthouse.policy.needs import expected_wait_s
from posthouse.policy.tuning import TUNING
from tests.kit.fleets import (
    GROUP,
    NOW,
    ONE,
    PRICE,
    SILENT_S,
    TWO,
    Fleet,
    assigned,
    decision_to_rent,
    fleet_of,
    instance,
    new_fleet,
    ready_report,
    worker,
)


def state_of(fleet: Fleet, worker_id: WorkerId = ONE) -> State:
    return fleet.workers[worker_id].state


def failures(fleet: Fleet, now: float = NOW) -> int:
    return fleet.snapshot(now, ()).group_failures.get(GROUP, Failures()).count


# -- routing -------------------------------------------------------------------------------------------------------


def test_a_new_request_that_waits_brings_the_next_tick_forward_and_one_that_asks_again_does_not() -> None:
    fleet = Controller(Endpoint(EndpointId(1), "llm"), NOW)
    for event in (Ticked(), Written(ok=True)):
        fleet.handle(event, NOW + 1)
    waits = fleet.assign(0, 100, NOW + 1.5)
    assert WakeAt(NOW + 1.5) in fleet.take_effects()
    for event in (Ticked(), Written(ok=True)):
        fleet.handle(event, NOW + 1.5)
    fleet.assign(waits.request_idx, 100, NOW + 1.6)
    assert fleet.take_effects() == []


def test_a_request_goes_to_the_worker_that_would_finish_it_soonest() -> None:
    fleet = fleet_of(worker(ONE, perf=100), worker(TWO, perf=300))
    # Ends at 100/300, 200/300, then 300/300 against 100/100: a tie that the index breaks; the fourth is settled again.
    first = [assigned(fleet.assign(0, 100, NOW)).worker.id for _ in range(2)]
    assert first == [TWO, TWO]
    both = {assigned(fleet.assign(0, 100, NOW)).worker.id for _ in range(2)}
    assert both == {ONE, TWO}
    assert fleet.work == {ONE: 100.0, TWO: 300.0}


def test_a_worker_above_max_queue_time_gets_no_request_until_it_has_worked_some_off() -> None:
    fleet = fleet_of(worker(perf=100), max_queue_time=10)
    given = [assigned(fleet.assign(0, 500, NOW)) for _ in range(3)]  # expected waits of 0, 5 and 10 s
    waits = fleet.assign(0, 500, NOW)
    assert isinstance(waits, Waiting)
    assert fleet.end(ONE, Ended(given[0].request_idx, success=True), NOW)
    assert assigned(fleet.assign(waits.request_idx, 500, NOW + 1)).request_idx == waits.request_idx
    assert not fleet.ledger.waiting


def test_only_ready_hot_workers_with_an_address_and_a_performance_get_requests() -> None:
    fleet = fleet_of(
        worker(WorkerId(1), state=State.MODEL_LOADING),
        worker(WorkerId(2), goal=Goal.COLD),
        replace(worker(WorkerId(3)), url=""),
        worker(WorkerId(4), perf=0.0),
        worker(WorkerId(5), state=State.ERROR),
        worker(WorkerId(6)),
    )
    assert [assigned(fleet.assign(0, 1, NOW)).worker.id for _ in range(12)] == [6] * 12


def test_a_worker_gets_no_more_requests_as_soon_as_it_is_not_wanted_hot() -> None:
    fleet = fleet_of(worker())
    assigned(fleet.assign(0, 1, NOW))
    fleet.set_goal(ONE, Goal.COLD)
    assert isinstance(fleet.assign(0, 1, NOW), Waiting)


def test_asking_again_adds_no_load_and_keeps_the_place_in_line() -> None:
    fleet = fleet_of(worker(state=State.STOPPED))
    waits = fleet.assign(0, 100, NOW)
    for second in range(1, 6):
        assert fleet.assign(waits.request_idx, 100, NOW + second) == waits
    demand = fleet.snapshot(NOW + 5, ()).demand
    assert (demand.waiting, demand.waiting_count, demand.oldest_wait_s) == (100, 1, 5)
    assert demand.recent_rate == pytest.approx(100 / 9)


def test_a_waiting_request_nobody_asks_for_any_more_is_forgotten() -> None:
    fleet = fleet_of()
    fleet.assign(0, 100, NOW)
    fleet.advance(NOW + WAITING_KEPT_S - 1, SILENT_S)
    assert len(fleet.ledger.waiting) == 1
    fleet.advance(NOW + WAITING_KEPT_S, SILENT_S)
    assert len(fleet.ledger) == 0


def test_waiting_requests_beyond_the_bound_are_counted_as_load_but_not_remembered() -> None:
    fleet = fleet_of(worker(state=State.STOPPED))
    for _ in range(MAX_WAITING):
        fleet.assign(0, 1, NOW)
    assert fleet.assign(0, 1, NOW) == Waiting(0)
    assert len(fleet.ledger) == MAX_WAITING
    assert fleet.snapshot(NOW, ()).demand.recent_rate == pytest.approx((MAX_WAITING + 1) / 9)


def test_a_client_that_left_takes_its_waiting_request_with_it() -> None:
    fleet = fleet_of()
    waits = fleet.assign(0, 100, NOW)
    fleet.forget(waits.request_idx)
    fleet.forget(waits.request_idx)
    assert len(fleet.ledger) == 0


def test_a_client_that_left_before_it_was_told_of_its_worker_leaves_the_room_to_others_and_no_suspicion() -> None:
    fleet = fleet_of(worker())
    given = assigned(fleet.assign(0, 100, NOW))
    fleet.forget(given.request_idx)
    assert (len(fleet.ledger), fleet.ledger.outstanding()) == (0, 0.0)
    assert assigned(fleet.assign(given.request_idx, 100, NOW)).worker.id == ONE


def test_a_request_asked_again_after_it_was_assigned_goes_elsewhere() -> None:
    fleet = fleet_of(worker(ONE), worker(TWO))
    first = assigned(fleet.assign(0, 100, NOW))
    second = assigned(fleet.assign(first.request_idx, 100, NOW + 0.01))
    assert second.worker.id != first.worker.id
    assert second.request_idx == first.request_idx
    assert fleet.work == {second.worker.id: 100}


def test_a_request_goes_on_from_dead_worker_to_dead_worker_at_a_walk() -> None:
    fleet = fleet_of(*(worker(WorkerId(i)) for i in range(1, 41)))
    outcome, asked = fleet.assign(0, 1, NOW), [0.0]
    while (at := asked[-1]) < 30:  # its client: at once where nobody listens; it is held for 2 s and sleeps for 1 s
        at += 0.005 if isinstance(outcome, Assignment) else 3.0
        for i in range(1, 41):
            fleet.report(WorkerId(i), ready_report(WorkerId(i)), NOW + at)
        outcome = fleet.assign(outcome.request_idx, 1, NOW + at)
        asked.append(at)
    assert fleet.counters.routed >= 15  # it does not give up
    assert len(asked) <= 31


def test_a_request_with_one_dead_worker_waits_and_then_tries_it_less_and_less_often() -> None:
    fleet = fleet_of(worker())
    idx = assigned(fleet.assign(0, 1, NOW)).request_idx
    tried = []
    for tick in range(1, 2000):
        now = NOW + tick / 10
        fleet.report(ONE, ready_report(), now)
        if isinstance(fleet.assign(idx, 1, now), Assignment):
            tried.append(tick / 10)
    gaps = [b - a for a, b in pairwise(tried)]
    assert tried[0] == pytest.approx(TUNING.retry_s + 0.1)
    assert gaps == sorted(gaps)
    assert 3 <= len(tried) <= 10


def test_only_distinct_requests_are_held_against_a_worker_and_a_success_clears_them() -> None:
    fleet = fleet_of(worker(ONE), worker(TWO), worker(WorkerId(3)))
    idx = 0
    for second in range(0, 60, 20):  # the same request fails everywhere, again and again
        for tries in range(4):
            outcome = fleet.assign(idx, 1, NOW + second + 3 * tries)
            idx = outcome.request_idx
    # All are suspected alike, so all are used.
    used = [assigned(fleet.assign(0, 100, NOW + 61)) for _ in range(3)]
    assert {a.worker.id for a in used} == {1, 2, 3}
    for one in used[1:]:
        assert fleet.end(one.worker.id, Ended(one.request_idx, success=True), NOW)
    # 5 s are held against the first; nothing against those that did well.
    assert {assigned(fleet.assign(0, 100, NOW + 62)).worker.id for _ in range(6)} == {a.worker.id for a in used[1:]}


def failing(fleet: Fleet, number: int, now: float = NOW, success: bool = False, status: str = "Error") -> list[int]:
    """Has the fleet's one worker end new requests like this at once; their indexes."""
    indexes = []
    for _ in range(number):
        indexes.append(assigned(fleet.assign(0, 1, now)).request_idx)
        assert fleet.end(ONE, Ended(indexes[-1], success, status), now)
    return indexes


@pytest.mark.parametrize(
    ("success", "status", "held_s"),
    [
        (False, "Error", 10.0),
        (False, "", 10.0),
        (False, "Rejected", 0.0),
        (True, "Success", 0.0),
        (True, "Cancelled", 0),
    ],
)
def test_what_a_worker_says_of_an_end_counts_against_it_only_where_the_fault_is_its_own(
    success: bool, status: str, held_s: float
) -> None:
    fleet = fleet_of(worker())
    failing(fleet, 2, success=success, status=status)
    assert fleet.requests.outliers.penalties_s(NOW).get(ONE, 0.0) == held_s
    assert fleet.snapshot(NOW, ()).outliers == ({ONE} if held_s else set())


def test_failures_are_held_against_a_worker_up_to_a_bound_and_each_success_takes_one_back() -> None:
    fleet = fleet_of(worker())
    failing(fleet, 20)
    assert fleet.requests.outliers.penalties_s(NOW) == {ONE: 60.0}
    held = []
    for _ in range(5):
        failing(fleet, 1, success=True)
        held.append(fleet.requests.outliers.penalties_s(NOW).get(ONE, 0.0))
    assert held == [40.0, 20.0, 10.0, 5.0, 0.0]


def test_an_end_that_was_told_and_the_request_asked_again_are_one_failure() -> None:
    fleet = fleet_of(worker())
    (idx,) = failing(fleet, 1)
    fleet.assign(idx, 1, NOW)
    assert fleet.requests.outliers.penalties_s(NOW) == {ONE: 5.0}


def test_a_success_that_turns_out_to_be_none_takes_nothing_back() -> None:
    fleet = fleet_of(worker())
    failing(fleet, 2)
    (idx,) = failing(fleet, 1, success=True)  # its model answered with an error, which its worker calls a success
    assert fleet.requests.outliers.penalties_s(NOW) == {ONE: 5.0}
    fleet.assign(idx, 1, NOW + 1)
    assert fleet.requests.outliers.penalties_s(NOW + 1) == {ONE: 20.0}


def test_the_failure_of_a_duplicate_after_the_success_counts_for_nothing() -> None:
    fleet = fleet_of(worker())
    (idx,) = failing(fleet, 1, success=True)
    assert not fleet.end(ONE, Ended(idx, success=False, status="Error"), NOW)
    assert fleet.requests.outliers.penalties_s(NOW) == {}


@pytest.mark.parametrize(("seen", "scheme", "held_s"), [(False, "U", 5.0), (True, "U", 0.0), (False, "A4", 0.0)])
def test_a_request_that_never_came_to_its_worker_is_held_against_it(seen: bool, scheme: str, held_s: float) -> None:
    fleet = fleet_of(replace(worker(), scheme=scheme))
    if scheme == "A4":  # a generation that never says what it works on
        fleet.report(ONE, structs.replace(ready_report(), scheme=scheme, working=None), NOW)
    idx = assigned(fleet.assign(0, 1, NOW)).request_idx
    if seen:
        fleet.report(ONE, ready_report(working=[idx]), NOW)
    fleet.advance(NOW + UNSEEN_KEPT_S, silent_s=1e9)
    assert fleet.requests.outliers.penalties_s(NOW + UNSEEN_KEPT_S).get(ONE, 0.0) == held_s


def test_a_request_that_ended_and_is_asked_again_is_reopened_elsewhere() -> None:
    fleet = fleet_of(worker(ONE), worker(TWO))
    first = assigned(fleet.assign(0, 100, NOW))
    assert fleet.end(first.worker.id, Ended(first.request_idx, success=True), NOW)
    again = assigned(fleet.assign(first.request_idx, 100, NOW + 1))
    assert (again.request_idx, again.worker.id) == (first.request_idx, {ONE: TWO, TWO: ONE}[first.worker.id])


def test_an_index_whose_request_ended_well_for_certain_is_used_once_more_at_once_and_blames_nobody() -> None:
    fleet = fleet_of(worker())
    idx = assigned(fleet.assign(0, 1, NOW)).request_idx
    for second in range(20):
        assert fleet.end(ONE, Ended(idx, success=True, status="Success", certain=True), NOW + second)
        assert assigned(fleet.assign(idx, 1, NOW + second)).worker.id == ONE
    assert fleet.requests.outliers.penalties_s(NOW + 20) == {}


def test_a_request_that_is_ended_and_asked_again_for_ever_tries_its_worker_less_and_less_often() -> None:
    fleet = fleet_of(worker())
    idx, tried = 0, []
    for tick in range(2000):
        now = NOW + tick / 10
        fleet.report(ONE, ready_report(), now)
        outcome = fleet.assign(idx, 1, now)
        idx = outcome.request_idx
        if isinstance(outcome, Assignment):  # its model answers with an error, which its worker takes for a success
            tried.append(tick / 10)
            assert fleet.end(ONE, Ended(idx, success=True), now)
    gaps = [b - a for a, b in pairwise(tried)]
    assert gaps == sorted(gaps)
    assert 3 <= len(tried) <= 10


def test_request_numbers_increase_for_each_worker_and_across_a_restart() -> None:
    fleet = fleet_of(worker(ONE))
    numbers = [assigned(fleet.assign(0, 1, NOW)).reqnum for _ in range(3)]
    reborn = Fleet(fleet.endpoint, NOW + 1, fleet.take_changes(everything=True))
    numbers.append(assigned(reborn.assign(0, 1, NOW + 1)).reqnum)
    assert numbers == sorted(set(numbers))


def test_inactivity_counts_from_the_end_of_the_last_request() -> None:
    fleet = fleet_of(worker())
    idx = assigned(fleet.assign(0, 100, NOW)).request_idx
    fleet.report(ONE, ready_report(working=[idx]), NOW + 1)
    assert fleet.snapshot(NOW + 1, ()).demand.last_request_at == NOW
    assert fleet.end(ONE, Ended(idx, success=True), NOW + 900)
    assert fleet.snapshot(NOW + 901, ()).demand.last_request_at == NOW + 900
    fleet.assign(0, 100, NOW + 950)
    assert fleet.snapshot(NOW + 951, ()).demand.last_request_at == NOW + 950


# -- ends and reconciliation -----------------------------------------------------------------------------------------


def test_a_worker_can_end_only_what_it_has_and_only_once() -> None:
    fleet = fleet_of(worker(ONE), worker(TWO))
    given = assigned(fleet.assign(0, 100, NOW))
    other = TWO if given.worker.id == ONE else ONE
    assert not fleet.end(other, Ended(given.request_idx, success=True), NOW)
    assert fleet.end(given.worker.id, Ended(given.request_idx, success=False), NOW)
    assert not fleet.end(given.worker.id, Ended(given.request_idx, success=True), NOW)
    assert not fleet.end(given.worker.id, Ended(12345, success=True), NOW)
    assert (fleet.counters.ended, fleet.counters.failed, fleet.counters.refused_ends) == (1, 1, 3)
    assert fleet.work == {}


def test_a_lost_end_is_noticed_by_what_the_worker_says_it_works_on() -> None:
    fleet = fleet_of(worker())
    idx = assigned(fleet.assign(0, 100, NOW)).request_idx
    fleet.report(ONE, ready_report(working=()), NOW + 1)  # sent before the request reached it
    assert fleet.work == {ONE: 100}
    fleet.report(ONE, ready_report(working=[idx]), NOW + 2)
    fleet.advance(NOW + 2 + 3600, 1e9)  # a request that was seen may be long
    assert fleet.work == {ONE: 100}
    fleet.report(ONE, ready_report(working=()), NOW + 3602)
    assert (fleet.work, len(fleet.ledger)) == ({}, 0)


def test_a_request_that_its_worker_never_saw_is_not_believed_in_for_long() -> None:
    fleet = fleet_of(worker())
    fleet.assign(0, 100, NOW)
    fleet.advance(NOW + UNSEEN_KEPT_S, SILENT_S)
    assert fleet.work == {}
    assert fleet.counters.expired == 1


def test_requests_of_before_a_restart_are_adopted_from_reports_during_the_calm() -> None:
    fleet = fleet_of(worker(), stabilization_s=60)
    report = structs.replace(ready_report(working=[11, 12]), cur_load=300.0)
    fleet.report(ONE, report, NOW + 1)
    assert fleet.work == {ONE: 300}
    fleet.report(
        ONE, structs.replace(report, working=frozenset({11, 13})), NOW + 61
    )  # the calm is over: 13 is not ours
    assert fleet.work == {ONE: 150}


# -- reports ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.example:8000",
        "http://10.0.0.2:8000",
        "http://10.0.0.1:8001",
        "http://10.0.0.1:8000@evil.example",
        "http://10.0.0.1:8000/path",
        "ftp://10.0.0.1:8000",
        "10.0.0.1:8000",
        "http://",
    ],
)
def test_an_address_at_which_the_provider_did_not_place_the_worker_is_refused(url: str) -> None:
    fleet = fleet_of(replace(worker(state=State.MODEL_LOADING), url=""))
    fleet.report(ONE, structs.replace(ready_report(), url=url), NOW + 1)
    assert fleet.counters.refused_addresses == 1
    assert state_of(fleet) is State.MODEL_LOADING
    assert fleet.workers[ONE].url == ""
    assert isinstance(fleet.assign(0, 1, NOW + 1), Waiting)


def test_a_worker_that_comes_back_at_another_address_gets_no_request_at_the_old_one() -> None:
    fleet = fleet_of(worker(state=State.STARTING))
    moved = structs.replace(ready_report(), url="http://10.0.0.1:9000")
    fleet.report(ONE, moved, NOW + 1)  # before the provider has said so
    assert isinstance(fleet.assign(0, 1, NOW + 1), Waiting)
    fleet.observe_instance(ONE, replace(instance(), addresses=frozenset({"10.0.0.1:9000"})), NOW + 2)
    fleet.report(ONE, moved, NOW + 3)
    assert assigned(fleet.assign(0, 1, NOW + 3)).worker.url == "http://10.0.0.1:9000"


def test_behind_a_tunnel_requests_go_to_the_url_that_the_provider_states() -> None:
    tunnel = "https://tunnel.example/w/1"
    fleet = fleet_of(replace(worker(state=State.STARTING), addresses=frozenset({tunnel})))
    fleet.report(ONE, structs.replace(ready_report(), url="http://10.0.0.1:8000"), NOW + 1)
    assert fleet.counters.refused_addresses == 0
    assert assigned(fleet.assign(0, 1, NOW + 1)).worker.url == tunnel


def test_a_worker_that_does_not_say_where_it_is_is_where_its_provider_placed_it() -> None:
    fleet = fleet_of(worker(state=State.STARTING))
    fleet.observe_instance(ONE, replace(instance(), addresses=frozenset({"10.0.0.1:9000"})), NOW + 1)
    fleet.report(ONE, structs.replace(ready_report(), url="", scheme="A4", working=None), NOW + 2)
    assert assigned(fleet.assign(0, 1, NOW + 2)).worker.url == "http://10.0.0.1:9000"


def test_a_report_that_does_not_speak_of_performance_changes_nothing_about_readiness() -> None:
    ready = fleet_of(worker(state=State.IDLE))
    ready.report(ONE, structs.replace(ready_report(), max_perf=None), NOW + 1)
    assert state_of(ready) is State.IDLE
    starting = fleet_of(worker(state=State.STARTING))  # it was ready in its earlier life, and is not yet in this one
    starting.report(ONE, structs.replace(ready_report(), max_perf=None), NOW + 1)
    assert state_of(starting) is State.STARTING


def test_a_new_performance_counts_for_the_next_request() -> None:
    fleet = fleet_of(worker(ONE, perf=100), worker(TWO, perf=100))
    fleet.report(ONE, ready_report(ONE, perf=900), NOW + 1)
    assert [assigned(fleet.assign(0, 100, NOW + 1)).worker.id for _ in range(5)] == [ONE] * 5


def test_a_worker_without_a_report_is_unavailable_and_comes_back_with_the_next_one() -> None:
    fleet = fleet_of(worker())
    fleet.advance(NOW + SILENT_S, SILENT_S)
    assert state_of(fleet) is State.IDLE
    fleet.advance(NOW + SILENT_S + 1, SILENT_S)
    assert state_of(fleet) is State.UNAVAIL
    assert isinstance(fleet.assign(0, 1, NOW + SILENT_S + 1), Waiting)
    fleet.report(ONE, ready_report(), NOW + SILENT_S + 2)
    assert state_of(fleet) is State.IDLE


def test_a_worker_that_reports_an_error_is_not_used_and_its_words_are_kept() -> None:
    fleet = fleet_of(worker())
    fleet.report(ONE, structs.replace(ready_report(), error="CUDA out of memory"), NOW + 1)
    assert state_of(fleet) is State.ERROR
    assert fleet.workers[ONE].message == "CUDA out of memory"
    assert isinstance(fleet.assign(0, 1, NOW + 1), Waiting)


# -- commands --------------------------------------------------------------------------------------------------------


def test_a_worker_is_an_intent_before_it_is_a_command() -> None:
    fleet = fleet_of()
    actions = fleet.tick(decision_to_rent(2), NOW, (WorkerId(i) for i in count(5)), "house-")
    assert actions == ((WorkerId(5), Command.RENT), (WorkerId(6), Command.RENT))
    assert [(w.label, w.state, w.price) for w in fleet.take_changes()] == [
        ("house-5", State.WANTED, PRICE),
        ("house-6", State.WANTED, PRICE),
    ]


def test_no_command_is_due_while_one_is_on_its_way() -> None:
    fleet = new_fleet()
    fleet.command_sent(ONE, Command.RENT, NOW)
    fleet.set_goal(ONE, Goal.GONE)
    assert fleet.due(NOW + 1) == ()
    fleet.command_answered(ONE, NOW + 1)
    assert fleet.due(NOW + 1) == ((ONE, Command.DESTROY),)


def test_a_command_out_of_order_is_refused() -> None:
    fleet = fleet_of(worker())
    with pytest.raises(IllegalMove):
        fleet.command_sent(ONE, Command.START, NOW)


def test_a_busy_worker_is_stopped_only_when_its_last_request_has_ended() -> None:
    fleet = fleet_of(worker())
    fleet.report(ONE, ready_report(), NOW)
    idx = assigned(fleet.assign(0, 100, NOW)).request_idx
    fleet.set_goal(ONE, Goal.COLD)
    assert fleet.due(NOW) == ()
    fleet.end(ONE, Ended(idx, success=True), NOW)
    assert fleet.due(NOW + 1) == ((ONE, Command.STOP),)


def test_a_worker_that_says_it_works_is_busy_even_if_we_know_of_no_request() -> None:
    fleet = fleet_of(worker())
    fleet.report(ONE, structs.replace(ready_report(), working=None, working_count=1), NOW)
    fleet.set_goal(ONE, Goal.GONE)
    assert fleet.due(NOW) == ()
    fleet.report(ONE, structs.replace(ready_report(), working=None, working_count=0), NOW + 5)
    assert fleet.due(NOW + 5) == ((ONE, Command.DESTROY),)


def test_what_a_worker_counts_ends_as_many_requests_as_it_leaves_no_room_for() -> None:
    fleet = fleet_of(worker())
    counts = structs.replace(ready_report(), working=None, received=0)
    fleet.report(ONE, counts, NOW)
    first, second, third = (fleet.assign(0, 10, NOW).request_idx for _ in range(3))

    def open_after(now: float, received: int, working: int) -> list[int]:
        fleet.report(ONE, structs.replace(counts, received=received, working_count=working), NOW + now)
        return list(fleet.ledger.at.get(ONE, ()))

    assert open_after(0.5, received=0, working=0) == [first, second, third]  # they are on their way
    assert open_after(1.0, received=1, working=0) == [second, third]
    assert open_after(2.0, received=2, working=1) == [second, third]
    assert open_after(3.0, received=2, working=0) == [third]
    assert open_after(4.0, received=0, working=0) == [third]  # a report that came too late
    assert open_after(9.0, received=0, working=0) == []  # its client left, or its worker counts otherwise
    assert not fleet.requests.busy(ONE)


def test_a_failed_worker_may_finish_what_it_has_for_a_while_and_no_longer() -> None:
    fleet = fleet_of(worker())
    fleet.assign(0, 100, NOW)
    fleet.report(ONE, structs.replace(ready_report(), error="broken"), NOW)
    fleet.set_goal(ONE, Goal.GONE)
    assert fleet.due(NOW + 1) == ()
    for second in range(10, 70, 10):
        fleet.report(ONE, structs.replace(ready_report(), error="broken"), NOW + second)
    assert fleet.due(NOW + 61) == ((ONE, Command.DESTROY),)


def test_a_refused_creation_leaves_nothing_behind() -> None:
    fleet = new_fleet()
    fleet.command_sent(ONE, Command.RENT, NOW)
    fleet.command_answered(ONE, NOW + 1, "no credit")
    assert fleet.workers == {}
    assert [(w.state, w.message) for w in fleet.take_changes()] == [(State.DESTROYED, "no credit")]
    assert failures(fleet) == 1


def test_a_worker_that_is_gone_is_in_no_memory_even_if_its_command_is_answered_late() -> None:
    fleet = new_fleet()
    fleet.command_sent(ONE, Command.RENT, NOW)
    fleet.command_answered(ONE, NOW + 1)
    fleet.observe_instance(ONE, instance(), NOW + 1)
    fleet.report(ONE, ready_report(), NOW + 2)
    assert isinstance(fleet.assign(0, 100, NOW + 2), Assignment)
    fleet.command_sent(ONE, Command.DESTROY, NOW + 3)
    fleet.command_answered(ONE, NOW + 4)
    fleet.observe("sim", [], NOW + 5, NOW + 5)
    fleet.command_answered(ONE, NOW + 6)
    fleet.take_changes()
    memories = {name: memory for name, memory in vars(fleet).items() if isinstance(memory, dict | set)}
    assert [name for name, memory in memories.items() if ONE in memory] == []


def test_an_offer_that_was_taken_is_nobodys_fault() -> None:
    fleet = new_fleet()
    fleet.command_sent(ONE, Command.RENT, NOW)
    fleet.command_answered(ONE, NOW + 1, "taken", blame=False)
    assert failures(fleet) == 0


@pytest.mark.parametrize(("blame", "blamed"), [(True, 1), (False, 0)])
def test_a_failed_start_is_blamed_once_or_not_at_all(blame: bool, blamed: int) -> None:
    fleet = fleet_of(worker(state=State.STOPPED))
    fleet.command_sent(ONE, Command.START, NOW)
    fleet.command_answered(ONE, NOW + 1, "host away", blame)
    assert (state_of(fleet), fleet.workers[ONE].goal) == (State.STOPPED, Goal.COLD)
    assert failures(fleet) == blamed


def test_a_worker_whose_command_was_refused_is_left_alone_for_a_while() -> None:
    fleet = fleet_of(worker(goal=Goal.COLD))
    fleet.report(ONE, ready_report(), NOW)
    fleet.command_sent(ONE, Command.STOP, NOW)
    fleet.command_answered(ONE, NOW, "busy")
    assert state_of(fleet) is State.IDLE
    assert fleet.snapshot(NOW, ()).resting == {ONE}
    assert fleet.due(NOW + TUNING.backoff_s - 1) == ()
    assert fleet.due(NOW + TUNING.backoff_s) == ((ONE, Command.STOP),)


def test_a_worker_that_a_person_drains_is_not_woken_before_it_rests_though_it_is_needed() -> None:
    fleet = fleet_of(worker(), min_load=50, max_workers=1)
    fleet.report(ONE, ready_report(), NOW)
    fleet.told(Dismissed((ONE,), Goal.COLD), NOW)
    assert decide(fleet.snapshot(NOW, ()), Memory()).goals.get(ONE) is not Goal.HOT
    assert fleet.due(NOW) == ((ONE, Command.STOP),)
    fleet.command_sent(ONE, Command.STOP, NOW)
    assert decide(fleet.snapshot(NOW, ()), Memory()).goals.get(ONE) is not Goal.HOT
    fleet.command_answered(ONE, NOW)
    fleet.observe("sim", [instance(ONE, Observation.HALTED)], NOW + 1, NOW + 1)
    assert state_of(fleet) is State.STOPPED
    assert decide(fleet.snapshot(NOW + 1, ()), Memory()).goals.get(ONE) is Goal.HOT


def test_an_instance_that_vanishes_before_it_was_ready_counts_as_a_failure() -> None:
    fleet = new_fleet()
    fleet.command_sent(ONE, Command.RENT, NOW)
    fleet.command_answered(ONE, NOW + 1)
    fleet.observe_instance(ONE, instance(seen=Observation.PULLING), NOW + 1)
    fleet.observe("sim", [], asked_at=NOW + 2, now=NOW + 2)
    assert fleet.workers == {}
    assert failures(fleet) == 1


def test_what_began_before_the_last_failure_fails_no_second_time() -> None:
    def made(number: int, at: float) -> Worker:
        return replace(worker(WorkerId(number), State.LOADING), created_at=at, loaded_at=0.0)

    fleet = fleet_of(made(1, NOW), made(2, NOW))
    for number in (1, 2):
        fleet.command_answered(WorkerId(number), NOW + number, "host away")
    assert failures(fleet) == 1
    assert fleet.snapshot(NOW + 3, ()).group_failures[GROUP].last_at == NOW + 1  # the next try is not put off
    fleet = fleet_of(made(1, NOW), made(4, NOW + 6))
    for number in (1, 4):
        fleet.command_answered(WorkerId(number), NOW + 2 * number, "host away")
    assert failures(fleet) == 2


def test_a_worker_that_becomes_ready_clears_the_failures_of_its_workergroup() -> None:
    fleet = fleet_of(worker(ONE, state=State.MODEL_LOADING), worker(TWO, state=State.MODEL_LOADING))
    fleet.report(ONE, structs.replace(ready_report(), error="broken"), NOW)
    assert failures(fleet) == 1
    fleet.report(TWO, ready_report(TWO), NOW + 1)
    assert failures(fleet) == 0


def test_a_stuck_state_ends_after_its_patience_and_progress_puts_that_off() -> None:
    timeout_s = STATE_TIMEOUT_S[State.LOADING]
    fleet = fleet_of(worker(ONE, state=State.LOADING), worker(TWO, state=State.LOADING))
    fleet.observe_instance(ONE, instance(ONE, Observation.PULLING, progress="1 GB"), NOW + 10)
    fleet.observe_instance(TWO, instance(TWO, Observation.PULLING, progress="1 GB"), NOW + 10)
    fleet.observe_instance(TWO, instance(TWO, Observation.PULLING, progress="2 GB"), NOW + timeout_s)
    fleet.advance(NOW + 10 + timeout_s + 1, SILENT_S)
    assert (state_of(fleet, ONE), state_of(fleet, TWO)) == (State.ERROR, State.LOADING)
    assert fleet.workers[ONE].message == "loading for 611 s without progress"


def test_a_list_and_a_report_that_each_say_the_same_as_before_are_no_progress() -> None:
    fleet = fleet_of(worker(state=State.MODEL_LOADING))
    end_at = NOW + STATE_TIMEOUT_S[State.MODEL_LOADING] + 20
    for now in np.arange(NOW, end_at, 5):
        fleet.observe_instance(ONE, instance(progress="the last line"), now)
        fleet.report(ONE, structs.replace(ready_report(perf=0.0), disk_gb=12.5), now)
    fleet.advance(end_at, SILENT_S)
    assert state_of(fleet) is State.ERROR


# -- lists of providers ------------------------------------------------------------------------------------------------


def test_a_list_from_before_the_last_command_settled_means_nothing() -> None:
    fleet = new_fleet()
    fleet.command_sent(ONE, Command.RENT, NOW)
    fleet.observe("sim", [], asked_at=NOW + 1, now=NOW + 1)  # the command is on its way
    fleet.command_answered(ONE, NOW + 2)
    fleet.observe_instance(ONE, instance(seen=Observation.PROVISIONING), NOW + 2)
    fleet.observe("sim", [], asked_at=NOW + 2, now=NOW + 3)
    assert state_of(fleet) is State.CREATING
    fleet.observe("sim", [], asked_at=NOW + 3, now=NOW + 3)
    assert fleet.workers == {}


def test_a_creation_with_an_unknown_outcome_is_found_by_its_label() -> None:
    fleet = new_fleet()
    fleet.command_sent(ONE, Command.RENT, NOW)
    fleet.command_answered(ONE, NOW + 1)
    fleet.observe("sim", [], asked_at=NOW + 2, now=NOW + 2)  # it may still appear
    fleet.observe("sim", [instance(seen=Observation.PULLING)], asked_at=NOW + 4, now=NOW + 4)
    assert (state_of(fleet), fleet.workers[ONE].instance_id) == (State.LOADING, "i1")


def test_a_creation_with_an_unknown_outcome_that_never_appears_is_given_up() -> None:
    fleet = new_fleet()
    fleet.command_sent(ONE, Command.RENT, NOW)
    fleet.command_answered(ONE, NOW + 1)
    fleet.observe("sim", [], asked_at=NOW + 1 + UNCLEAR_S, now=NOW + 1 + UNCLEAR_S)
    assert fleet.workers == {}


def test_the_list_of_another_provider_says_nothing_about_a_worker() -> None:
    fleet = fleet_of(worker())
    fleet.observe("elsewhere", [], asked_at=NOW + 1, now=NOW + 1)
    assert state_of(fleet) is State.IDLE


def test_only_sightings_that_contradict_what_is_known_count_as_late() -> None:
    fleet = fleet_of(worker())
    for second in range(3):
        fleet.observe_instance(ONE, instance(), NOW + second)
        fleet.report(ONE, ready_report(), NOW + second)
    assert fleet.counters.late_observations == 0
    fleet.observe_instance(ONE, instance(seen=Observation.PULLING), NOW + 3)
    assert (state_of(fleet), fleet.counters.late_observations) == (State.IDLE, 1)


# -- money -------------------------------------------------------------------------------------------------------------


def test_the_spend_of_a_life_is_the_bill_added_up_by_hand() -> None:
    fleet = new_fleet()
    at = NOW + 1000  # an intent costs nothing
    fleet.command_sent(ONE, Command.RENT, at)
    fleet.command_answered(ONE, at)
    fleet.observe_instance(ONE, instance(), at)
    at += 600  # loading: 600 s at 0.6 $/h
    fleet.report(ONE, ready_report(), at)
    assert fleet.spent_usd(at) == pytest.approx(0.10)
    at += 1800  # ready: 1800 s at 1.2 $/h
    fleet.report(ONE, ready_report(), at)
    fleet.set_goal(ONE, Goal.COLD)
    fleet.command_sent(ONE, Command.STOP, at)
    fleet.command_answered(ONE, at)
    assert fleet.spent_usd(at) == pytest.approx(0.70)
    fleet.observe("sim", [instance(seen=Observation.HALTED)], at, at)
    at += 7200  # stopped: 7200 s at 0.1 $/h
    fleet.advance(at, SILENT_S)
    assert fleet.workers[ONE].spent_at(at) == pytest.approx(0.90)
    fleet.set_goal(ONE, Goal.GONE)
    fleet.command_sent(ONE, Command.DESTROY, at)
    fleet.command_answered(ONE, at)
    fleet.observe("sim", [], at, at)
    fleet.advance(at + 1000, SILENT_S)
    assert fleet.workers == {}
    assert fleet.spent_usd(at) == pytest.approx(0.90)


def test_workers_that_overstay_at_one_tick_are_billed_for_all_their_time() -> None:
    fleet = fleet_of(worker(ONE, State.STOPPING, Goal.COLD), worker(TWO, State.STOPPING, Goal.COLD))
    for seconds in (115, 121):
        fleet.advance(NOW + seconds, SILENT_S)
    assert state_of(fleet, ONE) is state_of(fleet, TWO) is State.ERROR
    assert fleet.spent_usd(NOW + 121) == pytest.approx(2 * PRICE.ready_usd_h * (50 + 121) / 3600)


# -- what is stored, and a restart -----------------------------------------------------------------------------------


def test_changes_are_taken_once_and_may_be_given_back() -> None:
    fleet = new_fleet()
    rows = fleet.take_changes()
    assert [w.id for w in rows] == [ONE]
    assert fleet.take_changes() == ()
    fleet.give_back(rows)
    assert fleet.take_changes() == rows


def test_a_worker_destroyed_while_its_row_was_being_stored_is_still_stored() -> None:
    fleet = new_fleet()
    rows = fleet.take_changes()
    fleet.set_goal(ONE, Goal.GONE)
    fleet.command_sent(ONE, Command.DESTROY, NOW)
    fleet.give_back(rows)
    assert [w.state for w in fleet.take_changes()] == [State.DESTROYED]


def test_an_intent_of_before_a_restart_is_looked_for_before_it_is_given_up() -> None:
    fleet = Fleet(new_fleet().endpoint, NOW + 5, new_fleet().take_changes())
    assert state_of(fleet) is State.CREATING
    fleet.observe("sim", [], asked_at=NOW + 6, now=NOW + 6)
    assert state_of(fleet) is State.CREATING
    fleet.observe("sim", [instance()], asked_at=NOW + 8, now=NOW + 8)
    assert state_of(fleet) is State.MODEL_LOADING


@pytest.mark.parametrize(
    ("state", "goal", "seen", "then"),
    [
        (State.STOPPING, Goal.COLD, Observation.RUNNING, Command.STOP),
        (State.STARTING, Goal.HOT, Observation.HALTED, Command.START),
    ],
)
def test_a_command_that_did_not_leave_before_the_server_died_is_given_again(
    state: State, goal: Goal, seen: Observation, then: Command
) -> None:
    fleet = fleet_of(worker(state=state, goal=goal))
    fleet.report(ONE, ready_report(), NOW)
    fleet.observe("sim", [instance(seen=seen)], NOW + 1, NOW + 2)
    assert fleet.due(NOW + 2) == ((ONE, then),)
    fleet.command_sent(ONE, then, NOW + 2)
    fleet.command_answered(ONE, NOW + 3)
    fleet.observe("sim", [instance(seen=seen)], NOW + 4, NOW + 5)
    assert fleet.workers[ONE].state is state, "the list may be older than what the command does"


@pytest.mark.parametrize("state", sorted(STATE_TIMEOUT_S))
def test_a_long_absence_of_the_server_makes_no_worker_overdue(state: State) -> None:
    fleet = Fleet(fleet_of().endpoint, NOW + 86_400, [worker(state=state)])
    fleet.advance(NOW + 86_400, SILENT_S)
    assert state_of(fleet) is state


def test_a_restart_does_not_count_as_silence_of_clients() -> None:
    reborn = fleet_of(worker(), min_load=0.0, inactivity_timeout=600.0)
    assert reborn.snapshot(NOW + 1, ()).demand.last_request_at == NOW
    at_rest = fleet_of(worker(state=State.STOPPED, goal=Goal.COLD), min_load=0.0, inactivity_timeout=600.0)
    assert at_rest.snapshot(NOW + 1, ()).demand.last_request_at == 0.0


def test_performance_and_start_times_are_learned() -> None:
    fleet = fleet_of(worker(ONE, state=State.STARTING), worker(TWO, state=State.DESTROYED, perf=300))
    assert fleet.snapshot(NOW, ()).estimates.perf == {f"{GROUP}/1xGPU@sim": 200.0}  # the mean of 100 and 300
    fleet.report(ONE, ready_report(perf=500), NOW + 8)
    estimates = fleet.snapshot(NOW + 8, ()).estimates
    assert estimates.perf == {f"{GROUP}/1xGPU@sim": 400.0}  # of 500 and 300: a worker counts once
    assert estimates.start_s == 8.0


def test_what_a_worker_says_that_it_does_counts_no_more_than_twice_what_its_kind_does() -> None:
    three = (worker(ONE), worker(TWO), worker(WorkerId(3)))
    fleet = fleet_of(*three)
    fleet.advance(NOW, SILENT_S)
    fleet.report(ONE, ready_report(ONE, perf=1e12), NOW + 1)
    assert fleet.workers[ONE].perf == 200.0
    fleet.advance(NOW + 60, SILENT_S)
    assert fleet.snapshot(NOW + 60, ()).estimates.perf == {f"{GROUP}/1xGPU@sim": 100.0}
    for second in range(10):  # and what all of them do better is believed soon
        for each in (ONE, TWO, WorkerId(3)):
            fleet.report(each, ready_report(each, perf=1000), NOW + 61 + second)
        fleet.advance(NOW + 61 + second, SILENT_S)
    assert {w.perf for w in fleet.workers.values()} == {1000.0}


def test_who_said_too_much_before_others_of_its_kind_came_is_bounded_once_they_are_there() -> None:
    fleet = fleet_of(worker(ONE, perf=1e12), worker(TWO))
    fleet.advance(NOW, SILENT_S)
    assert fleet.workers[ONE].perf == 200.0
    assert "counted as 200" in fleet.workers[ONE].message
    assert fleet.snapshot(NOW, ()).estimates.perf == {f"{GROUP}/1xGPU@sim": 150.0}


def test_a_price_that_rises_is_paid_from_then_on() -> None:
    fleet = fleet_of(worker(ONE))
    before_usd_h, spent_usd = fleet.workers[ONE].usd_h(), fleet.spent_usd(NOW + 60)
    risen = Price(2 * before_usd_h, before_usd_h, 0.0)
    fleet.observe_instance(ONE, replace(instance(ONE), price=risen), NOW + 60)
    assert fleet.workers[ONE].price == risen
    assert fleet.spent_usd(NOW + 60) == pytest.approx(spent_usd)
    assert fleet.spent_usd(NOW + 120) - spent_usd == pytest.approx(2 * before_usd_h / 60)


def test_a_machine_that_is_away_counts_in_full_until_it_is_gone_and_then_as_stopped() -> None:
    fleet = fleet_of(worker(ONE))
    away, began_usd = replace(instance(ONE, Observation.EXITED), away=True), fleet.spent_usd(NOW)
    for second in (10, 20):
        fleet.observe_instance(ONE, away, NOW + second)
    assert fleet.workers[ONE].usd_h() == PRICE.ready_usd_h, "it may come back, and no cap is passed by that"
    before = fleet.spent_usd(NOW + 10)
    assert fleet.spent_usd(NOW + 100) - before == pytest.approx(PRICE.ready_usd_h * 90 / 3600)
    fleet.observe("sim", [], NOW + 100, NOW + 100)
    assert not fleet.workers
    assert fleet.spent_usd(NOW + 100) - before == pytest.approx(PRICE.stopped_usd_h * 90 / 3600)
    figures = fleet.copy_traffic(NOW + 100).figures
    assert figures["usd"] == pytest.approx(fleet.spent_usd(NOW + 100) - began_usd), "and `posthouse bill` says the same"
    assert sum(figures["usd_by"].values()) == pytest.approx(figures["usd"])


def test_a_machine_that_came_back_was_paid_in_full() -> None:
    fleet = fleet_of(worker(ONE))
    before = fleet.spent_usd(NOW)
    fleet.observe_instance(ONE, replace(instance(ONE, Observation.EXITED), away=True), NOW + 10)
    fleet.observe_instance(ONE, instance(ONE), NOW + 50)
    fleet.observe("sim", [], NOW + 100, NOW + 100)
    assert fleet.spent_usd(NOW + 100) - before == pytest.approx(PRICE.ready_usd_h * 100 / 3600)


def test_what_a_kind_does_for_its_money_is_learned() -> None:
    fleet = fleet_of(worker(ONE, perf=120), worker(TWO, perf=60))
    estimates = fleet.snapshot(NOW, ()).estimates
    kind = f"{GROUP}/1xGPU@sim"
    json.dumps(asdict(estimates))  # it is told as that
    assert estimates.work_per_usd == {kind: pytest.approx(75.0)}  # 100 and 50 for each dollar per hour


def test_what_is_remembered_of_machines_is_bounded() -> None:
    gone = [replace(worker(WorkerId(n), State.DESTROYED), machine=f"m{n}") for n in range(1, MAX_MACHINES + 9)]
    fleet = fleet_of(*(replace(w, state=State.IDLE) for w in gone))
    for lost in gone:
        fleet.observe_instance(lost.id, instance(lost.id, Observation.EXITED), NOW)
    fleet.advance(NOW + STATE_TIMEOUT_S[State.UNAVAIL] + 1, SILENT_S)
    failed = fleet.snapshot(NOW, ()).machine_failures
    assert len(failed) == MAX_MACHINES
    assert gone[-1].machine in failed


def test_what_is_known_of_hosts_and_of_start_times_outlives_a_restart() -> None:
    fleet = fleet_of(worker(ONE), worker(TWO))
    fleet.observe_instance(ONE, instance(ONE, Observation.EXITED), NOW)
    fleet.advance(NOW + STATE_TIMEOUT_S[State.UNAVAIL] + 1, SILENT_S)
    later = NOW + 600
    before, after = (
        known.snapshot(later, ()) for known in (fleet, Fleet(fleet.endpoint, later, fleet.take_changes(True)))
    )
    assert after.held_against == before.held_against
    assert 0.8 < after.held_against["m1"] < 1
    assert after.machine_failures == before.machine_failures == {"m1": before.machine_failures["m1"]}
    assert set(after.loaded_on) == {(GROUP, "m1"), (GROUP, "m2")}
    assert after.estimates.create_s_of == {f"{GROUP}/1xGPU@sim": 40.0}


def test_how_many_new_workers_of_a_kind_come_to_be_ready_is_learned() -> None:
    kind = f"{GROUP}/1xGPU@sim"
    fleet = new_fleet()
    (action,) = fleet.due(NOW)
    fleet.command_sent(*action, NOW)
    fleet.command_answered(ONE, NOW, "no such image")
    assert fleet.snapshot(NOW, ()).estimates.success_rate == {kind: 0.5}
    assert fleet.snapshot(NOW + TUNING.long_backoff_s, ()).estimates.success_rate == {}
    fleet.tick(decision_to_rent(1), NOW, iter([TWO]), "test-")
    (action,) = fleet.due(NOW)
    fleet.command_sent(*action, NOW)
    fleet.observe_instance(TWO, instance(TWO), NOW)
    fleet.report(TWO, ready_report(TWO), NOW + 5)
    assert fleet.snapshot(NOW + 5, ()).estimates.success_rate == {kind: pytest.approx(2 / 3)}


def test_what_does_not_load_on_three_machines_is_held_against_what_it_runs() -> None:
    def machines(fleet: Fleet) -> tuple[str, ...]:
        return fleet.snapshot(NOW, ()).group_failures.get(GROUP, Failures()).machines

    def loading(number: int, machine: str, loaded_at: float = 0.0) -> Worker:
        return replace(worker(WorkerId(number), State.MODEL_LOADING), machine=machine, loaded_at=loaded_at)

    crew = [loading(n, machine) for n, machine in enumerate(["a", "a", "b", "c", "d", "e"], 1)]
    fleet = fleet_of(*crew, loading(7, "f", loaded_at=NOW - 60))
    sick = structs.replace(ready_report(), error="no such model")
    fleet.report(WorkerId(7), sick, NOW)  # that worked there before
    assert machines(fleet) == ()
    for number, failed in [(1, "a"), (2, "a"), (3, "ab"), (4, "abc"), (5, "abc")]:
        fleet.report(WorkerId(number), sick, NOW)
        assert machines(fleet) == tuple(failed)
    told = [line.text for line in fleet.history.lines(GROUP) if "see what its template runs" in line.text]
    assert told == [f"workergroup {GROUP} failed on 3 machines: see what its template runs"]
    fleet.report(WorkerId(6), ready_report(WorkerId(6)), NOW)
    assert machines(fleet) == ()
    fleet = fleet_of(*crew)
    fleet.observe("sim", [], NOW + 1, NOW + 1)  # all were taken away
    assert (failures(fleet), machines(fleet)) == (1, ())


def test_a_worker_that_dies_at_work_is_held_against_its_machine_alone() -> None:
    fleet = fleet_of(worker(ONE), worker(TWO))
    fleet.observe_instance(ONE, instance(ONE, Observation.EXITED), NOW)
    assert fleet.snapshot(NOW, ()).machine_failures == {}  # it may come back
    later = NOW + STATE_TIMEOUT_S[State.UNAVAIL] + 1
    fleet.advance(later, SILENT_S * 10)
    assert fleet.snapshot(later, ()).machine_failures == {"m1": Failures(1, later)}
    fleet.observe("sim", [], later, later)  # the other was taken away
    assert set(fleet.snapshot(later, ()).machine_failures) == {"m1", "m2"}
    assert failures(fleet, later) == 0
    assert fleet.snapshot(later, ()).estimates.success_rate == {}


def test_a_host_has_a_reputation_that_a_success_does_not_mend_at_once() -> None:
    fleet = fleet_of(worker(ONE), worker(TWO))
    fleet.observe("sim", [instance(TWO)], NOW + 1, NOW + 1)  # the first was taken away
    assert fleet.snapshot(NOW + 1, ()).held_against == {"m1": 1.0}
    half = NOW + 1 + TUNING.long_backoff_s
    assert fleet.snapshot(half, ()).held_against == {"m1": 0.5}
    fleet.observe("sim", [], half, half)
    assert fleet.snapshot(half, ()).held_against == {"m1": 0.5, "m2": 1.0}


def test_a_worker_at_full_performance_is_no_queue_once_the_time_of_service_is_known() -> None:
    fleet = fleet_of(worker(ONE, perf=100), worker(TWO, perf=100), max_queue_time=10)
    alone = [assigned(fleet.assign(0, 200, NOW)) for _ in range(2)]
    beside = assigned(fleet.assign(0, 200, NOW + 1))
    for now, ended in ((NOW + 16, alone[0]), (NOW + 17, alone[1]), (NOW + 40, beside)):
        assert fleet.end(ended.worker.id, Ended(ended.request_idx, success=True), now)
    given = [fleet.assign(0, 200, NOW + 50) for _ in range(8)]
    assert fleet.snapshot(NOW + 50, ()).demand.service_s == 0.0
    fleet.advance(NOW + 50, 1e9)
    demand = fleet.snapshot(NOW + 50, ()).demand
    assert demand.service_s == pytest.approx(16.0)  # that of the fastest: 0.08 s for each of 200 units of work
    assert (demand.outstanding, expected_wait_s(demand, 200.0)) == (1600, 0.0)
    # 8 in service at each worker, and as many in its queue as a next one waits 10 s for: the end of one, and 4 more.
    given += [fleet.assign(0, 200, NOW + 50) for _ in range(30)]
    assert sum(isinstance(g, Assignment) for g in given) == 26
    # 10 queue at the workers and 12 wait without one: 22 x 200 of work at 200 a second.
    assert expected_wait_s(fleet.snapshot(NOW + 50, ()).demand, 200.0) == pytest.approx(22.0)


def test_requests_that_failed_and_those_that_queued_teach_nothing_about_the_time_of_service() -> None:
    fleet = fleet_of(worker(ONE))
    for number, success in enumerate([False] * 5 + [True] * 20):
        given = [assigned(fleet.assign(0, 100, NOW + 100 * number)) for _ in range(3)]
        for place, one in enumerate(given, 1):  # one after the other
            took_s = 4.0 * place if success else 0.01
            assert fleet.end(ONE, Ended(one.request_idx, success), NOW + 100 * number + took_s)
    fleet.assign(0, 100, NOW + 9000)
    fleet.advance(NOW + 9000, 1e9)
    assert fleet.snapshot(NOW + 9000, ()).demand.service_s == pytest.approx(4.0)


@pytest.mark.parametrize("tiny", [5e-324, 1e-6])
def test_requests_of_tiny_cost_do_not_hide_a_queue_of_large_ones(tiny: float) -> None:
    fleet = fleet_of(worker(ONE, perf=100))
    for second in range(0, 40, 2):
        idx = assigned(fleet.assign(0, tiny, NOW + second)).request_idx
        assert fleet.end(ONE, Ended(idx, success=True), NOW + second + 1)
    for _ in range(20):
        fleet.assign(0, 100, NOW + 40)
    fleet.advance(NOW + 40, SILENT_S)
    assert expected_wait_s(fleet.snapshot(NOW + 40, ()).demand, 100.0) == pytest.approx(19.0)


def test_the_breakdown_by_status_uses_the_words_of_the_wire() -> None:
    fleet = fleet_of(
        worker(WorkerId(1), State.LOADING), worker(WorkerId(2), State.LOADING), worker(WorkerId(3), State.STOPPED)
    )
    assert fleet.statuses() == "loading: 2, stopped: 1"
    assert fleet_of().statuses() == "no workers"


def test_a_ledger_at_rest_holds_exactly_nothing() -> None:
    fleet = fleet_of(worker())
    costs = [0.1, 0.2, 0.3, 1e9, 0.7]
    given = [assigned(fleet.assign(0, cost, NOW)) for cost in costs[:3]]
    for one in given:
        fleet.end(ONE, Ended(one.request_idx, success=True), NOW)
    assert (fleet.work, fleet.ledger.outstanding()) == ({}, 0.0)
    for idx, cost in enumerate(costs, 1):
        fleet.ledger.wait(Request(idx, cost, NOW, NOW))
    for idx in range(1, 6):
        fleet.forget(idx)
    assert not fleet.ledger.waiting


# -- updates -----------------------------------------------------------------------------------------------------------


def updating() -> Fleet:
    """A fleet whose one worker, ready and free, was told to update itself a second ago."""
    fleet = fleet_of(worker())
    fleet.report(ONE, ready_report(), NOW)
    fleet.ask_update(GROUP, NOW)
    fleet.set_goal(ONE, Goal.UPDATED)
    fleet.command_sent(ONE, Command.UPDATE, NOW + 1)
    return fleet


def test_what_runs_until_its_end_says_nothing_of_the_update() -> None:
    fleet = updating()
    fleet.report(ONE, ready_report(), NOW + 2)
    fleet.report(ONE, structs.replace(ready_report(), error="the model is gone"), NOW + 3)
    assert state_of(fleet) is State.UPDATE_REBOOTING
    fleet.command_answered(ONE, NOW + 4)
    fleet.updated(ONE)
    fleet.report(ONE, structs.replace(ready_report(), max_perf=0.0), NOW + 5)
    assert state_of(fleet) is State.UPDATE_REBOOTING
    fleet.report(ONE, ready_report(), NOW + 9)
    assert fleet.workers[ONE].outdated_at == 0
    assert assigned(fleet.assign(0, 10, NOW + 10)).worker.id == ONE


def test_an_update_asked_for_while_one_is_carried_out_is_not_lost() -> None:
    fleet = updating()
    fleet.ask_update(GROUP, NOW + 2)
    fleet.command_answered(ONE, NOW + 3)
    fleet.updated(ONE)
    assert fleet.workers[ONE].outdated_at == NOW + 2


def test_a_worker_whose_update_was_refused_serves_on_and_waits_for_another_try() -> None:
    fleet = updating()
    fleet.command_answered(ONE, NOW + 2, "no such image")
    assert (state_of(fleet), fleet.workers[ONE].goal) == (State.IDLE, Goal.HOT)
    assert fleet.workers[ONE].message == "no such image"
    assert fleet.workers[ONE].outdated_at == NOW
    assert failures(fleet, NOW + 2) == 1
    assert fleet.snapshot(NOW + 3, ()).resting == {ONE}
    assert assigned(fleet.assign(0, 10, NOW + 3)).worker.id == ONE


def test_failures_of_before_do_not_hold_up_what_may_be_their_remedy() -> None:
    fleet = updating()
    fleet.command_answered(ONE, NOW + 2, "no such image")
    fleet.ask_update(GROUP, NOW + 3)
    assert failures(fleet, NOW + 3) == 0


def test_a_cold_worker_is_updated_at_once_and_rests_again_when_it_has_loaded() -> None:
    fleet = fleet_of(worker(state=State.STOPPED, goal=Goal.COLD))
    assert fleet.ask_update(GROUP, NOW) == 1
    fleet.set_goal(ONE, Goal.UPDATED)
    assert fleet.due(NOW) == ((ONE, Command.UPDATE),)
    fleet.command_sent(ONE, Command.UPDATE, NOW)
    fleet.command_answered(ONE, NOW + 1)
    fleet.updated(ONE)
    assert fleet.due(NOW + 2) == ()
    fleet.report(ONE, ready_report(), NOW + 3)
    assert fleet.due(NOW + 4) == ((ONE, Command.STOP),)


def test_only_what_will_exist_and_belongs_to_the_workergroup_is_updated() -> None:
    stays = [worker(WorkerId(i), state) for i, state in enumerate((State.IDLE, State.CREATING, State.UNAVAIL), 1)]
    goes = [
        worker(WorkerId(4), goal=Goal.GONE),
        worker(WorkerId(5), State.ERROR),
        worker(WorkerId(6), State.DESTROYING),
    ]
    other = replace(worker(WorkerId(7)), group_id=WorkergroupId(8))
    fleet = fleet_of(*stays, *goes, other)
    assert fleet.ask_update(GROUP, NOW) == len(stays)
    assert [w.id for w in fleet.workers.values() if w.outdated_at] == [w.id for w in stays]


def test_a_worker_of_an_older_template_says_nothing_good_of_the_present_one() -> None:
    fleet = fleet_of(worker(), worker(TWO, State.UNAVAIL))
    fleet.ask_update(GROUP, NOW)
    fleet.set_goal(ONE, Goal.UPDATED)
    fleet.report(ONE, ready_report(), NOW)
    fleet.command_sent(ONE, Command.UPDATE, NOW)
    fleet.command_answered(ONE, NOW + 1, "no such image")
    fleet.report(TWO, ready_report(TWO), NOW + 2)
    assert state_of(fleet, TWO) is State.IDLE
    assert failures(fleet, NOW + 2) == 1


def test_a_failure_that_a_caller_saw_counts_once_and_its_request_goes_elsewhere() -> None:
    fleet = fleet_of(worker(ONE), worker(TWO))
    first = assigned(fleet.assign(0, 100, NOW))
    assert not fleet.failed(TWO if first.worker.id == ONE else ONE, first.request_idx, "connection refused", NOW)
    assert fleet.failed(first.worker.id, first.request_idx, "connection refused", NOW + 1)
    assert fleet.ledger.outstanding() == 0
    assert set(fleet.requests.outliers.penalties_s(NOW + 1)) == {first.worker.id}
    before = fleet.requests.outliers.penalties_s(NOW + 1)
    again = assigned(fleet.assign(first.request_idx, 100, NOW + 1))
    assert again.worker.id != first.worker.id
    assert fleet.requests.outliers.penalties_s(NOW + 1) == before


# -- requests that kill, workers that are of no use --------------------------------------------------------------------


def crew(number: int, perf: float = 100.0) -> Fleet:
    return fleet_of(*(worker(WorkerId(i), perf=perf) for i in range(1, number + 1)), min_load=1e6)


def killing(fleet: Fleet, deaths: int, observation: Observation | None = None) -> int:
    """A request of which so many workers die, each right after it came there; its index."""
    idx = 0
    for death in range(deaths):
        now = NOW + 10 * death
        given = assigned(fleet.assign(idx, 1, now))
        idx = given.request_idx
        if observation is None:
            fleet.report(given.worker.id, structs.replace(ready_report(), error="CUDA out of memory"), now + 1)
        else:
            fleet.observe_instance(given.worker.id, instance(given.worker.id, observation), now + 1)
    return idx


@pytest.mark.parametrize("observation", [None, Observation.EXITED])
def test_a_request_of_which_two_workers_died_is_given_no_third_and_told_why(observation: Observation | None) -> None:
    fleet = crew(5)
    idx = killing(fleet, 2, observation)
    for again in range(3):
        outcome = fleet.assign(idx, 1, NOW + 30 + again, hold_s=4.0)
        assert isinstance(outcome, Waiting)
        assert (outcome.request_idx, outcome.held) == (0, False)
        assert "given no worker any more, for 2 died while they had it" in outcome.denied
        assert observation is not None or "CUDA out of memory" in outcome.denied
    assert len(fleet.ledger) == 0
    assert isinstance(fleet.assign(0, 1, NOW + 40), Assignment)


def test_a_request_that_is_held_when_its_second_worker_is_seen_to_be_dead_is_told() -> None:
    fleet = crew(3)
    idx = killing(fleet, 1)
    second = assigned(fleet.assign(idx, 1, NOW + 10)).worker.id
    assert fleet.assign(idx, 1, NOW + 10.5, hold_s=4.0) == Waiting(idx, held=True)  # it may have killed that one, too
    fleet.managed.held[idx] = lambda outcome: fleet.delivered.append((idx, outcome))
    fleet.report(second, structs.replace(ready_report(), error="CUDA out of memory"), NOW + 11)
    ((_, outcome),) = fleet.delivered
    assert isinstance(outcome, Waiting)
    assert outcome.denied


def test_a_request_that_failed_at_two_workers_goes_on_once_one_of_them_is_known_to_live() -> None:
    fleet = crew(4)
    first = assigned(fleet.assign(0, 1, NOW))
    second = assigned(fleet.assign(first.request_idx, 1, NOW + 1))
    assert isinstance(fleet.assign(first.request_idx, 1, NOW + 5), Waiting)
    fleet.report(second.worker.id, ready_report(second.worker.id), NOW + 6)
    third = assigned(fleet.assign(first.request_idx, 1, NOW + 6))
    assert third.worker.id not in (first.worker.id, second.worker.id)


@pytest.mark.parametrize("silent", [True, False])
def test_workers_that_lose_their_network_or_their_host_died_of_no_request(silent: bool) -> None:
    fleet = crew(4)
    idx = 0
    for lost in range(3):
        now = NOW + 100 * lost
        given = assigned(fleet.assign(idx, 1, now))
        idx = given.request_idx
        left = [w for w in fleet.workers if w != given.worker.id and state_of(fleet, w) is State.IDLE]
        for alive in left:
            fleet.report(alive, ready_report(alive), now + 90)
        if silent:
            fleet.advance(now + 90, SILENT_S)
        else:
            fleet.observe("sim", [instance(i) for i in left], now + 90, now + 90)
        assert state_of(fleet, given.worker.id) is State.UNAVAIL if silent else given.worker.id not in fleet.workers
    assert isinstance(fleet.assign(idx, 1, NOW + 300), Assignment)


def ticking(fleet: Fleet, until_s: int, ends: dict[WorkerId, list[Ended]]) -> list[tuple[int, Worker]]:
    """When which workers were given up, where each ends one request a second as `ends` has it, in turn."""
    given_up: list[tuple[int, Worker]] = []
    fleet.managed.watchers.append(
        lambda now, effects: given_up.extend(
            (int(now - NOW), e.after) for e in effects if isinstance(e, Moved) and e.why is Observation.USELESS
        )
    )
    fleet.told(Listed("sim", tuple(instance(i) for i in ends), NOW), NOW)
    for second in range(until_s):
        now = NOW + second
        for worker_id in [i for i in ends if state_of(fleet, i) is State.IDLE]:
            fleet.report(worker_id, ready_report(worker_id), now)
            idx = next(fleet.requests._indexes)
            fleet.ledger.assign(Request(idx, 1.0, now, now + 30), fleet.ledger.worker(worker_id), now)
            end = ends[worker_id][second % len(ends[worker_id])]
            assert fleet.end(worker_id, structs.replace(end, request_idx=idx), now)
        fleet.told(Ticked(), now)
        fleet.told(Written(ok=True), now)
    return given_up


GOOD, BAD, LEFT = (Ended(0, True, "Success"), Ended(0, False, "Error"), Ended(0, True, "Cancelled"))


@pytest.mark.parametrize(
    ("first", "second", "given_up"),
    [
        ([BAD], [GOOD], 1),
        ([BAD, BAD, BAD, GOOD], [GOOD], 1),
        ([BAD, GOOD], [GOOD], 0),
        ([LEFT], [GOOD], 1),
        ([LEFT], [LEFT], 0),  # answers take longer than clients wait for: another worker would be no better
        ([LEFT, LEFT, GOOD], [GOOD], 1),
        ([Ended(0, False, "Rejected")], [GOOD], 0),
    ],
)
def test_a_worker_at_which_nothing_ends_well_is_replaced_whatever_it_reports(
    first: list[Ended], second: list[Ended], given_up: int
) -> None:
    fleet = crew(2)
    found = ticking(fleet, 110, {ONE: first, TWO: second})
    assert [lost.id for _, lost in found] == [ONE] * given_up
    assert all(second >= TUNING.max_penalty_s and "did not end well" in lost.message for second, lost in found)


def test_where_every_worker_fails_they_are_replaced_one_at_a_time_and_ever_more_slowly() -> None:
    fleet = crew(6)
    workers = [WorkerId(i) for i in range(1, 7)]
    found = ticking(fleet, 600, {i: [BAD] for i in workers})
    assert [b - a for (a, _), (b, _) in pairwise(found)] == [60, 120, 240]
