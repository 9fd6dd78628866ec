"""What is decided, from a snapshot built by hand: capacity, limits, whom to take on and whom to let go."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.domain.decision import Decision, Failures, Memory, Obstacle, Snapshot
from posthouse.domain.demand import Demand
from posthouse.domain.endpoint import Endpoint, EndpointId, EndpointState, Scaling, WorkergroupId
from posthouse.domain.estimates import Estimates
from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.offer import Capabilities, GroupOffer, Offer, Price
from posthouse.domain.worker import Worker, WorkerId
from posthouse.policy.capacity import coming, expected_perf
from posthouse.policy.decide import decide
from posthouse.policy.draft import committed_usd_h
from posthouse.policy.faults import beyond_median, group_resume_at, machine_resume_at, penalty_s
from posthouse.policy.forecast import predicted_load, sliding_max
from posthouse.policy.needs import HotNeed, hot_need, left_open
from posthouse.policy.recruit import cover_usd_h
from posthouse.policy.release import last_stays_s
from posthouse.policy.route import pick, queued_work, work_ahead
from posthouse.policy.tuning import TUNING

NOW = 10_000.0
HOLD_S = TUNING.hold_starts * TUNING.recent_s
"""Where a start takes less."""
GROUP = WorkergroupId(1)
KIND = f"{GROUP}/1xGPU@sim"
PRICE = Price(ready_usd_h=1.0, loading_usd_h=0.5, stopped_usd_h=0.1)
BARE = Scaling(min_load=0.0, target_util=1.0, cold_mult=0.0, cold_workers=0)
"""No floor, no reserve: what is wanted is what is asked for."""
PAIR = replace(BARE, cold_workers=2)


def worker(
    number: int,
    state: State = State.IDLE,
    goal: Goal = Goal.HOT,
    perf: float = 100.0,
    price: Price = PRICE,
    zone: str = "",
    provider: str = "sim",
) -> Worker:
    return Worker(
        id=WorkerId(number),
        endpoint_id=EndpointId(1),
        group_id=GROUP,
        label=f"test-{number}",
        provider=provider,
        offer_id="o",
        machine=f"m{number}",
        gpu_name="GPU",
        num_gpus=1,
        price=price,
        created_at=0.0,
        state=state,
        goal=goal,
        perf=perf,
        zone=zone,
    )


def cold(number: int, **fields: float | Price) -> Worker:
    return replace(worker(number, State.STOPPED, Goal.COLD), **fields)  # type: ignore[arg-type]


def offer(
    offer_id: str = "o", usd_h: float = 1.0, machine: str = "m", available: int = 1000, gpu_name: str = "GPU"
) -> GroupOffer:
    return GroupOffer(GROUP, Offer(offer_id, "sim", machine, Price(usd_h, usd_h, 0.1), gpu_name, 1, available))


def load(rate: float) -> Demand:
    """Steady load, and nothing open."""
    return Demand(rate=rate, long_rate=rate, recent_rate=rate, last_request_at=NOW)


def snapshot(*workers: Worker, scaling: Scaling = BARE, demand: Demand | None = None, **fields: object) -> Snapshot:
    base = Snapshot(
        now=NOW,
        endpoint=Endpoint(EndpointId(1), "e", scaling),
        workers=workers,
        demand=demand or Demand(),
        offers=(offer(),),
        estimates=Estimates({KIND: 100.0}, start_s=5.0, create_s=30.0),
    )
    return replace(base, **fields)  # type: ignore[arg-type]


def decided(s: Snapshot, memory: Memory | None = None) -> Decision:
    return decide(s, memory or Memory())


def rented(decision: Decision) -> tuple[int, int]:
    """How many hot and how many cold workers are rented."""
    goals = [r.goal for r in decision.rentals]
    return goals.count(Goal.HOT), goals.count(Goal.COLD)


# -- how much is needed --------------------------------------------------------------------------------------------


def test_a_load_of_900_at_a_target_of_0_9_wants_1000() -> None:
    decision = decided(snapshot(scaling=replace(BARE, target_util=0.9), demand=load(900)))
    assert decision.hot_need == 1000
    assert rented(decision) == (9, 0)  # workers are added below 90 %


def test_min_load_is_a_floor_of_the_load() -> None:
    floor = replace(BARE, min_load=450, target_util=0.9)
    assert decided(snapshot(scaling=floor)).hot_need == 500
    assert decided(snapshot(scaling=floor, demand=load(900))).hot_need == 1000


def test_the_higher_of_the_last_minute_and_the_last_ten_seconds_is_prepared_for() -> None:
    assert predicted_load(Demand(rate=5, recent_rate=7), TUNING) == 7
    assert predicted_load(Demand(rate=7, recent_rate=5), TUNING) == 7


def test_cold_workers_are_made_for_what_five_minutes_ask_for_not_for_a_spike_in_the_last() -> None:
    team, scaling = [worker(1), cold(2), cold(3)], replace(BARE, cold_mult=3)
    spike = replace(load(300), long_rate=100.0)
    assert rented(decided(snapshot(*team, scaling=scaling, demand=spike))) == (0, 0)
    assert rented(decided(snapshot(*team, scaling=scaling, demand=load(300)))) == (0, 6)
    over = replace(load(100), long_rate=300.0)
    assert rented(decided(snapshot(*team, scaling=scaling, demand=over))) == (0, 0)


def test_cold_workers_are_made_for_what_was_asked_for_over_an_hour() -> None:
    team, scaling = [worker(i) for i in (1, 2, 3)], replace(BARE, cold_mult=3)
    now = snapshot(*team, scaling=scaling, demand=load(300))
    memory = Memory(hour_rate=0.0, at=NOW)
    rents, rates = [], []
    for second in range(0, 7200, 10):
        decision = decided(replace(now, now=NOW + second), memory)
        rents.append(rented(decision)[1])
        rates.append(memory.hour_rate)
        memory = decision.memory
    assert rents[0] == 0
    assert rents == sorted(rents)
    assert rents[-1] == 5  # 3 x 300 x (1 - e^-2), and three are there
    assert rates[360] == pytest.approx(300 * (1 - math.exp(-1)), rel=0.01)
    # What was before a restart is not known, and while that is so the present counts.
    assert rented(decided(snapshot(*team, scaling=scaling, demand=load(300)))) == (0, 6)
    anew = decided(replace(now, stabilized_at=NOW + 60), Memory(hour_rate=0.0, at=NOW - 1))
    assert rented(anew) == (0, 6)
    assert anew.memory.hour_rate == 300


def test_capacity_in_all_is_cold_mult_times_the_hot_capacity_wanted() -> None:
    decision = decided(snapshot(scaling=replace(BARE, cold_mult=3), demand=load(200)))
    assert rented(decision) == (2, 4)


def test_min_cold_load_is_capacity_in_all_whatever_the_load() -> None:
    # 300 in all, 100 of it hot: 200 inactive.
    decision = decided(snapshot(worker(1), scaling=replace(BARE, min_cold_load=300), demand=load(100)))
    assert rented(decision) == (0, 2)


def test_no_cold_worker_is_rented_where_it_could_not_rest() -> None:
    hot_only = replace(offer().offer, id="cheap", price=Price(0.1, 0.1, 0.0), capabilities=Capabilities(stop=False))
    scaling = replace(BARE, cold_workers=3)
    alone = decided(snapshot(scaling=scaling, offers=(GroupOffer(GROUP, hot_only),)))
    assert rented(alone) == (0, 0)
    assert "no offer keeps the disk of a stopped worker" in [reason.rule for reason in alone.because]
    decision = decided(snapshot(scaling=scaling, offers=(GroupOffer(GROUP, hot_only), offer())))
    assert [r.offer.offer.id for r in decision.rentals] == ["o"] * 3
    busy = decided(snapshot(scaling=BARE, demand=load(90), offers=(GroupOffer(GROUP, hot_only), offer())))
    assert [(r.offer.offer.id, r.goal) for r in busy.rentals] == [("cheap", Goal.HOT)]


def test_cold_workers_are_a_number_of_workers_whatever_they_can_do() -> None:
    assert rented(decided(snapshot(scaling=replace(BARE, cold_workers=3)))) == (0, 3)
    assert rented(decided(snapshot(worker(1, perf=1e6), scaling=replace(BARE, cold_workers=3)))) == (0, 2)


def test_capacity_on_its_way_counts() -> None:
    coming = [worker(i, state) for i, state in enumerate([State.CREATING, State.LOADING, State.MODEL_LOADING], 1)]
    assert rented(decided(snapshot(*coming, demand=load(300)))) == (0, 0)


def test_silent_and_failed_workers_are_not_counted_on() -> None:
    team = [worker(1, State.UNAVAIL), worker(2, State.ERROR), worker(3, State.DESTROYING, Goal.GONE)]
    decision = decided(snapshot(*team, demand=load(100)))
    assert rented(decision) == (1, 0)
    assert decision.goals == {WorkerId(2): Goal.GONE}


def test_while_nobody_knows_what_a_worker_can_do_one_is_tried() -> None:
    decision = decided(snapshot(demand=load(1e6), estimates=Estimates()))
    assert rented(decision) == (1, 0)
    assert expected_perf("1/1xOther@sim", 1.0, Estimates()) == math.inf


@pytest.mark.parametrize(("waiting", "outstanding"), [(0.0, 1001.0), (1.0, 1000.0)])
def test_a_queue_wants_more_capacity_even_at_exactly_the_target(waiting: float, outstanding: float) -> None:
    full = Demand(
        90,
        90,
        waiting=waiting,
        waiting_count=int(waiting),
        outstanding=outstanding,
        queued=outstanding,
        oldest_wait_s=11.0 if waiting else 0.0,
        last_request_at=NOW,
    )
    scaling = replace(BARE, target_util=0.9, target_queue_time=10.0)
    assert rented(decided(snapshot(worker(1), scaling=scaling, demand=full))) >= (1, 0)
    calm = replace(full, waiting=0.0, waiting_count=0, outstanding=1000.0, queued=1000.0, oldest_wait_s=0.0)
    assert rented(decided(snapshot(worker(1), scaling=scaling, demand=calm))) == (0, 0)


def test_a_backlog_is_worked_off_within_the_start_and_target_queue_time() -> None:
    backlog = Demand(rate=0, recent_rate=0, waiting=4000, waiting_count=40, oldest_wait_s=1, last_request_at=NOW)
    # A creation takes 30 s, target_queue_time is 10 s: 4000 / 40 s = 100.
    assert decided(snapshot(demand=backlog)).hot_need == 100


def test_no_start_for_a_queue_that_is_gone_before_a_worker_could_come() -> None:
    queue = Demand(50, 50, outstanding=1200, queued=1200, outstanding_count=12, last_request_at=NOW)
    for start_s, starts in [(5.0, True), (20.0, False), (30.0, False)]:  # 1200 / (100 - 50) = 24 s
        estimates = Estimates({KIND: 100.0}, start_s=start_s, create_s=300.0)
        decision = decided(snapshot(worker(1), cold(2), demand=queue, estimates=estimates))
        assert (decision.goals == {WorkerId(2): Goal.HOT}) is starts
        assert rented(decision) == (0, 0)


def test_a_queue_that_a_start_shortens_is_no_reason_to_create() -> None:
    queue = Demand(50, 50, outstanding=9000, queued=9000, outstanding_count=90, last_request_at=NOW)
    estimates = Estimates({KIND: 100.0}, start_s=10.0, create_s=300.0)
    decision = decided(snapshot(worker(1), cold(2), demand=queue, estimates=estimates))
    assert decision.hot_need > 200.0
    assert decision.goals == {WorkerId(2): Goal.HOT}
    assert rented(decision) == (0, 0)  # in 180 s the first will have done it alone
    lasts = replace(queue, rate=180.0, recent_rate=180.0)
    assert rented(decided(snapshot(worker(1), cold(2), demand=lasts, estimates=estimates))) == (
        1,
        0,
    )  # 180 + 33,000 / 310


def test_who_is_on_its_way_counts_from_its_arrival_on_and_later_the_longer_it_is_overdue() -> None:
    estimates = Estimates({KIND: 100.0}, start_s=40.0, create_s=300.0)

    def expected(state: State, age_s: float) -> list[tuple[float, float]]:
        began_at = NOW - age_s
        loaded_at = 1.0 if state is State.STARTING else 0.0
        one = replace(worker(1, state, perf=0.0), since=began_at, created_at=began_at, loaded_at=loaded_at)
        return coming([one], estimates, NOW)

    assert expected(State.IDLE, 10.0) == []
    assert expected(State.STARTING, 10.0) == [(30.0, 100.0)]
    assert expected(State.LOADING, 10.0) == [(290.0, 100.0)]
    assert expected(State.STARTING, 45.0) == [(5.0, 100.0)]
    assert expected(State.STARTING, 400.0) == [(360.0, 100.0)]
    queue = Demand(rate=100.0, queued=1000.0)
    assert left_open(queue, 100.0, 50.0, [], 40.0) == 3000.0
    assert left_open(queue, 100.0, 50.0, [(30.0, 100.0), (60.0, 100.0)], 40.0) == 2000.0
    assert left_open(queue, 100.0, 50.0, [(10.0, 100.0)], 40.0) == 0.0


def test_a_ready_worker_of_unknown_performance_makes_no_infinite_need() -> None:
    waits = Demand(waiting=100, waiting_count=1, oldest_wait_s=60.0, last_request_at=NOW)
    assert math.isfinite(decided(snapshot(worker(1, perf=0.0), demand=waits, estimates=Estimates())).hot_need)


# -- zero ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("min_load", "timeout_s", "idle_s", "hot"),
    [
        (0.0, None, TUNING.keep_alive_starts * 5.0, 0),
        (0.0, 0.0, 0.0, 0),
        (0.0, 300.0, 299.0, 1),
        (0.0, 300.0, 300.0, 0),
        (0.0, -1.0, 1e9, 1),
        (1.0, None, 1e9, 1),
        (1.0, 300.0, 1e9, 1),
    ],
)
def test_when_an_endpoint_may_have_no_hot_worker(
    min_load: float, timeout_s: float | None, idle_s: float, hot: int
) -> None:
    scaling = replace(BARE, min_load=min_load, inactivity_timeout=timeout_s)
    decision = decided(snapshot(worker(1), scaling=scaling, demand=Demand(last_request_at=NOW - idle_s)))
    assert decision.goals == ({} if hot else {WorkerId(1): Goal.COLD})
    if hot:
        assert rented(decided(snapshot(scaling=scaling, demand=Demand(last_request_at=NOW - idle_s)))) == (1, 0)


def test_without_an_inactivity_timeout_the_last_worker_stays_a_while_but_none_is_started_for_it() -> None:
    quiet = Demand(last_request_at=NOW - TUNING.keep_alive_starts * 5.0 + 1.0)
    assert decided(snapshot(worker(1), worker(2), demand=quiet)).goals == {WorkerId(2): Goal.COLD}
    assert decided(snapshot(worker(1), demand=quiet)).goals == {}
    nobody = decided(snapshot(cold(1), demand=quiet, scaling=replace(BARE, cold_workers=1)))
    assert (nobody.goals, nobody.rentals) == ({}, ())


@pytest.mark.parametrize(("start_s", "stays_s"), [(30.0, 600.0), (0.0, 0.0), (600.0, TUNING.reserve_s)])
def test_the_last_worker_stays_the_longer_the_longer_a_start_takes(start_s: float, stays_s: float) -> None:
    s = snapshot(demand=Demand(last_request_at=NOW), estimates=Estimates(start_s=start_s))
    assert last_stays_s(s) == stays_s


@pytest.mark.parametrize("demand", [Demand(waiting=1.0), Demand(outstanding=1.0)])
@pytest.mark.parametrize("timeout_s", [None, 300.0])
def test_open_requests_keep_one_worker_hot(demand: Demand, timeout_s: float | None) -> None:
    decision = decided(snapshot(worker(1), scaling=replace(BARE, inactivity_timeout=timeout_s), demand=demand))
    assert decision.goals == {}


def test_after_the_inactivity_timeout_nothing_is_held_back() -> None:
    scaling = replace(BARE, inactivity_timeout=300.0, cold_mult=3)
    memory = Memory(hot_needs=((NOW - 1, 500.0),), total_needs=((NOW - 1, 1500.0),), released_at=NOW - 1)
    decision = decided(snapshot(*map(worker, range(1, 6)), cold(6), scaling=scaling), memory)
    assert decision.goals == {**{WorkerId(i): Goal.COLD for i in range(1, 6)}, WorkerId(6): Goal.GONE}


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [state for state in State if state is not State.DESTROYED])
def test_max_workers_counts_every_worker_whatever_its_state(state: State) -> None:
    team = [replace(worker(i, state), goal=Goal.GONE) for i in range(1, 4)]
    decision = decided(snapshot(*team, scaling=replace(BARE, max_workers=4), demand=load(1000)))
    assert rented(decision) == (1, 0)


def test_a_lowered_max_workers_lets_the_least_useful_go() -> None:
    team = [worker(1), worker(2), cold(3), worker(4, State.LOADING), worker(5, State.DESTROYING, Goal.GONE)]
    decision = decided(snapshot(*team, scaling=replace(BARE, max_workers=2, min_cold_load=400), demand=load(200)))
    assert decision.goals == {WorkerId(3): Goal.GONE, WorkerId(4): Goal.GONE}


def test_the_cap_on_money_refuses_rentals_and_starts() -> None:
    scaling = replace(BARE, max_usd_h=2.5)
    assert rented(decided(snapshot(worker(1), scaling=scaling, demand=load(500)))) == (1, 0)
    decision = decided(snapshot(worker(1), cold(2), cold(3), scaling=scaling, demand=load(500)))
    assert (len(decision.goals), rented(decision)) == (1, (0, 0))
    assert any("max_usd_h" in reason.rule for reason in decision.because)


def test_under_a_lowered_cap_the_dearest_for_their_work_drain_and_the_explanation_says_so() -> None:
    dear = worker(1, price=Price(2.0, 0.5, 0.1))
    team = (dear, worker(2), worker(3), worker(4, State.MODEL_LOADING))
    decision = decided(snapshot(*team, scaling=replace(BARE, max_usd_h=1.5), demand=load(300)))
    drained = {WorkerId(1): Goal.COLD, WorkerId(3): Goal.COLD, WorkerId(4): Goal.GONE}
    assert decision.goals == drained  # the one that loads has nothing on its disk yet
    assert rented(decision) == (0, 0)
    said = [r for r in decision.because if isinstance(r, Obstacle) and r.what == "cost per hour"]
    assert [(r.value, r.rule) for r in said] == [(5.0, "max_usd_h 1.5 is exceeded; let go: 1, 3, 4")]
    draining = [replace(w, goal=drained.get(w.id, w.goal)) for w in team]
    again = decided(snapshot(*draining, scaling=replace(BARE, max_usd_h=1.5), demand=load(300)))
    assert (again.goals, rented(again)) == ({}, (0, 0))
    assert any("some still drain" in r.rule for r in again.because)


@pytest.mark.parametrize(
    ("cap", "goals"),
    [
        (1.2, {}),
        (1.1, {3: Goal.GONE}),
        (1.0, {2: Goal.GONE, 3: Goal.GONE}),
        (0.2, {1: Goal.COLD, 3: Goal.GONE}),
        (0.0, {1: Goal.GONE, 2: Goal.GONE, 3: Goal.GONE}),
    ],
)
def test_a_cap_that_pays_for_no_storage_lets_cold_workers_go(cap: float, goals: dict[int, Goal]) -> None:
    scaling = replace(BARE, max_usd_h=cap, min_cold_load=300)
    decision = decided(snapshot(worker(1), cold(2), cold(3), scaling=scaling, demand=load(100)))
    assert decision.goals == {WorkerId(i): goal for i, goal in goals.items()}


def test_a_cold_worker_that_loads_is_counted_at_what_it_costs_when_it_is_ready() -> None:
    loading = worker(1, State.LOADING, Goal.COLD)
    assert committed_usd_h(loading) == PRICE.ready_usd_h
    scaling = replace(BARE, max_usd_h=1.6, min_cold_load=200)
    assert rented(decided(snapshot(loading, scaling=scaling))) == (0, 0)


def test_a_worker_that_is_already_counted_in_full_may_become_hot_under_the_cap() -> None:
    loading = worker(1, State.LOADING, Goal.COLD)
    decision = decided(snapshot(loading, scaling=replace(BARE, max_usd_h=1.0), demand=load(100)))
    assert decision.goals == {WorkerId(1): Goal.HOT}


# -- whom to take on ---------------------------------------------------------------------------------------------------


def test_a_cold_worker_is_started_before_one_is_rented() -> None:
    decision = decided(snapshot(cold(1), cold(2), demand=load(250)))
    assert decision.goals == {WorkerId(1): Goal.HOT, WorkerId(2): Goal.HOT}
    assert rented(decision) == (1, 0)


def test_the_cheapest_per_unit_of_work_is_started_when_there_is_time() -> None:
    quick = cold(1, load_s=5)
    cheap = replace(cold(2, load_s=50), price=Price(0.5, 0.5, 0.1))
    assert decided(snapshot(quick, cheap, scaling=PAIR, demand=load(100))).goals == {WorkerId(2): Goal.HOT}


def test_the_soonest_is_started_when_requests_wait() -> None:
    quick = cold(1, load_s=5)
    cheap = replace(cold(2, load_s=50), price=Price(0.5, 0.5, 0.1))
    waits = Demand(waiting=10, waiting_count=1, oldest_wait_s=1, last_request_at=NOW)
    assert decided(snapshot(quick, cheap, scaling=PAIR, demand=waits)).goals == {WorkerId(1): Goal.HOT}


def test_a_stopped_worker_is_started_before_one_that_loads_for_the_first_time() -> None:
    team = [worker(1, State.CREATING, Goal.COLD, perf=0.0), cold(2)]
    waits = Demand(waiting=10, waiting_count=1, oldest_wait_s=1, last_request_at=NOW)
    assert decided(snapshot(*team, scaling=PAIR, demand=waits)).goals == {WorkerId(2): Goal.HOT}
    assert decided(snapshot(*team, scaling=PAIR, demand=load(10))).goals == {WorkerId(2): Goal.HOT}


def test_a_worker_whose_start_was_just_refused_is_not_asked_again_before_another() -> None:
    s = snapshot(cold(1), cold(2), scaling=PAIR, demand=load(100), resting=frozenset({WorkerId(1)}))
    assert decided(s).goals == {WorkerId(2): Goal.HOT}


def test_the_cheapest_offer_per_unit_of_work_is_rented() -> None:
    estimates = Estimates({KIND: 100.0, f"{GROUP}/1xBig@sim": 400.0})
    offers = (offer("small", 1.0), offer("big", 3.0, gpu_name="Big"))
    decision = decided(snapshot(demand=load(400), offers=offers, estimates=estimates))
    assert [r.offer.offer.id for r in decision.rentals] == ["big"]


BIG = f"{GROUP}/1xBig@sim"
TWO_KINDS = Estimates({KIND: 100.0, BIG: 400.0}, work_per_usd={KIND: 100.0, BIG: 400 / 3})


def big(number: int, state: State = State.IDLE, goal: Goal = Goal.HOT) -> Worker:
    """Four times what the others do, for three times their price."""
    return replace(worker(number, state, goal, perf=400.0, price=Price(3.0, 3.0, 0.3)), gpu_name="Big")


def test_the_last_worker_is_the_cheapest_that_does_what_is_missing() -> None:
    offers = (offer("small", 1.0), offer("big", 3.0, gpu_name="Big"))
    decision = decided(snapshot(demand=load(500), offers=offers, estimates=TWO_KINDS))
    assert [r.offer.offer.id for r in decision.rentals] == ["big", "small"]
    started = decided(snapshot(cold(1), big(2, State.STOPPED, Goal.COLD), scaling=PAIR, demand=load(90)))
    assert started.goals == {WorkerId(1): Goal.HOT}


def test_a_little_sooner_is_not_worth_a_machine_that_costs_many_times_as_much() -> None:
    waits = Demand(waiting=10, waiting_count=1, oldest_wait_s=1, last_request_at=NOW)
    dear = replace(big(1, State.STOPPED, Goal.COLD), load_s=30.0)
    assert decided(snapshot(dear, cold(2, load_s=35), scaling=PAIR, demand=waits)).goals == {WorkerId(2): Goal.HOT}
    assert decided(snapshot(dear, cold(2, load_s=300), scaling=PAIR, demand=waits)).goals == {WorkerId(1): Goal.HOT}


def test_an_offer_is_rented_no_more_often_than_it_is_available() -> None:
    offers = (offer("a", 1.0, available=2), offer("b", 2.0, available=1))
    decision = decided(snapshot(demand=load(1000), offers=offers))
    assert sorted(r.offer.offer.id for r in decision.rentals) == ["a", "a", "b"]


def test_offers_of_two_providers_with_one_name_are_two_offers() -> None:
    here = offer("gpu0", available=1)
    there = replace(here, offer=replace(here.offer, provider="elsewhere"))
    decision = decided(snapshot(demand=load(200), offers=(here, there)))
    assert {r.offer.offer.provider for r in decision.rentals} == {"sim", "elsewhere"}


def test_two_workergroups_that_may_have_the_same_offer_are_tried_in_their_order() -> None:
    one = offer(available=1)
    other = replace(one, group_id=WorkergroupId(2))
    estimates = Estimates({KIND: 100.0, "2/1xGPU@sim": 100.0})
    for offers in [(one, other), (other, one)]:
        decision = decided(snapshot(demand=load(200), offers=offers, estimates=estimates))
        assert [r.offer.group_id for r in decision.rentals] == [GROUP]


def test_a_machine_that_failed_is_taken_last_but_taken() -> None:
    offers = (offer("a", 1.0, machine="bad", available=1), offer("b", 2.0, machine="good", available=1))
    failed = {"bad": Failures(1, NOW - 1)}
    one = decided(snapshot(demand=load(100), offers=offers, machine_failures=failed))
    assert [r.offer.offer.id for r in one.rentals] == ["b"]
    two = decided(snapshot(demand=load(200), offers=offers, machine_failures=failed))
    assert [r.offer.offer.id for r in two.rentals] == ["b", "a"]


def test_of_equal_machines_one_that_failed_is_taken_last_however_long_ago() -> None:
    offers = (offer("a", 1.0, machine="bad", available=1), offer("b", 1.0, machine="good", available=1))
    failed: dict[str, Any] = {"machine_failures": {"bad": Failures(1, NOW - 80_000)}, "held_against": {"bad": 2.0**-22}}
    one = decided(snapshot(demand=load(100), offers=offers, **failed))
    assert [r.offer.offer.id for r in one.rentals] == ["b"]
    free = tuple(replace(o, offer=replace(o.offer, price=Price())) for o in offers)
    assert first(*free, **failed) == "b"
    dearer = (offers[0], offer("b", 2.0, machine="good", available=1))
    one = decided(snapshot(demand=load(100), offers=dearer, **failed))
    assert [r.offer.offer.id for r in one.rentals] == ["a"]


def test_a_workergroup_that_failed_waits_and_then_tries_one_worker_at_a_time() -> None:
    early = snapshot(demand=load(500), group_failures={GROUP: Failures(3, NOW - 19)})
    assert rented(decided(early)) == (0, 0)
    due = snapshot(demand=load(500), group_failures={GROUP: Failures(3, NOW - 20)})
    assert rented(decided(due)) == (1, 0)
    trying = snapshot(worker(1, State.LOADING), demand=load(500), group_failures={GROUP: Failures(3, NOW - 20)})
    assert rented(decided(trying)) == (0, 0)


def test_a_workergroup_that_failed_tries_as_many_at_a_time_as_came_to_be_ready() -> None:
    proven = [replace(worker(n), loaded_at=NOW - 60.0) for n in (1, 2, 3)]
    failed = {GROUP: Failures(1, NOW - 20)}

    def tried(*team: Worker, failures: Failures = failed[GROUP]) -> tuple[int, int]:
        return rented(decided(snapshot(*team, demand=load(1000), group_failures={GROUP: failures})))

    assert tried(*proven) == (3, 0)
    assert tried(*proven, worker(4, State.LOADING), worker(5, State.LOADING)) == (1, 0)
    of_before = [replace(w, outdated_at=NOW - 1.0) for w in proven]  # they prove nothing of what is made now
    assert tried(*of_before) == (1, 0)
    assert tried(*proven, failures=Failures(1, NOW - TUNING.long_backoff_s, ("a", "b", "c"))) == (1, 0)


def test_what_fails_on_three_machines_is_tried_once_an_hour() -> None:
    for machines, wait_s in [("ab", TUNING.max_backoff_s), ("abc", TUNING.long_backoff_s)]:
        failed = {GROUP: Failures(20, NOW - wait_s + 1, tuple(machines))}
        early = snapshot(demand=load(500), group_failures=failed)
        assert rented(decided(early)) == (0, 0)
        told = [r.rule for r in decided(early).because if r.what == "no more hot workers"]
        assert ["on 3 machines: see what its template runs" in text for text in told] == [machines == "abc"]
        assert rented(decided(replace(early, now=NOW + 1))) == (1, 0)


def test_the_wait_doubles_with_every_failure_and_has_a_longest() -> None:
    waits = [group_resume_at(Failures(n, 100.0)) - 100 for n in (1, 2, 3, 4, 50, 10**9)]
    assert waits == [5, 10, 20, 40, TUNING.max_backoff_s, TUNING.max_backoff_s]
    assert group_resume_at(None) == group_resume_at(Failures()) == machine_resume_at(None) == 0.0


# -- whom to let go ----------------------------------------------------------------------------------------------------


def test_the_dearest_per_unit_of_work_rests_first() -> None:
    dear = worker(2, price=Price(3.0, 3.0, 0.1))
    assert decided(snapshot(worker(1), dear, worker(3), demand=load(200))).goals == {WorkerId(2): Goal.COLD}


def test_a_worker_at_which_requests_fail_rests_before_the_dearest() -> None:
    dear = worker(2, price=Price(3.0, 3.0, 0.1))
    outliers = frozenset({WorkerId(3)})
    s = snapshot(worker(1), dear, worker(3), demand=load(200), outliers=outliers)
    assert decided(s).goals == {WorkerId(3): Goal.COLD}


def test_none_rests_that_is_needed() -> None:
    assert decided(snapshot(worker(1), worker(2), demand=load(101))).goals == {}


def test_few_rest_at_once_and_not_soon_after_the_last() -> None:
    many = replace(BARE, max_workers=100)
    team = [worker(i) for i in range(1, 21)]
    decision = decided(snapshot(*team, scaling=many, demand=load(100)))
    assert len(decision.goals) == 4
    assert decision.memory.released_at == NOW
    soon = snapshot(*team, scaling=many, demand=load(100), now=NOW + TUNING.release_every_s - 1)
    assert decided(soon, decision.memory).goals == {}


def test_none_rests_while_help_is_on_its_way() -> None:
    assert decided(snapshot(*map(worker, (1, 2, 3)), worker(4, State.LOADING), demand=load(350))).goals == {}


def test_help_that_is_no_longer_needed_is_let_go_before_any_that_serves() -> None:
    team = [*map(worker, (1, 2, 3)), worker(4, State.LOADING)]
    assert decided(snapshot(*team, demand=load(100))).goals == {WorkerId(4): Goal.COLD}


def test_help_for_an_update_is_not_sent_back_while_it_starts_though_the_workergroup_failed() -> None:
    failed = {GROUP: Failures(1, NOW - TUNING.max_backoff_s)}
    four = replace(BARE, cold_workers=4)
    serving = [replace(worker(1), outdated_at=NOW - 900.0), worker(2)]

    def goals(*helpers: Worker) -> Mapping[WorkerId, Goal]:
        return decided(snapshot(*serving, *helpers, scaling=four, demand=load(200), group_failures=failed)).goals

    assert goals(cold(3), cold(4)) == {WorkerId(3): Goal.HOT}
    assert goals(worker(3, State.STARTING), cold(4)) == {}
    assert goals(worker(3), cold(4)) == {WorkerId(1): Goal.UPDATED}


def test_an_update_that_no_cap_pays_for_waits_and_names_the_cap() -> None:
    team = [worker(1), replace(cold(2), outdated_at=NOW - 900.0)]
    for cap, goals in [(1.9, {}), (2.1, {WorkerId(2): Goal.UPDATED})]:
        decision = decided(snapshot(*team, scaling=replace(BARE, max_usd_h=cap, min_cold_load=200), demand=load(90)))
        assert decision.goals == goals
        said = [reason.rule for reason in decision.because if reason.what == "workers to update"]
        assert said == (["in turn: 2"] if goals else ["max_usd_h 1.9 would be exceeded"])


def test_in_a_workergroup_that_failed_an_update_waits_for_no_help_where_the_rest_is_enough() -> None:
    team = [replace(worker(1), outdated_at=NOW - 900.0), *map(worker, (2, 3, 4))]
    failed = {GROUP: Failures(1, NOW - TUNING.max_backoff_s / 2)}
    need_311 = snapshot(*team, scaling=replace(BARE, target_util=0.9), demand=load(280), group_failures=failed)
    assert (decided(need_311).goals, decided(need_311).rentals) == ({WorkerId(1): Goal.UPDATED}, ())
    need_344 = replace(need_311, demand=load(310))
    assert (decided(need_344).goals, rented(decided(need_344))) == ({}, (1, 0))


def test_none_rests_or_goes_during_the_calm_after_a_restart() -> None:
    team = [worker(1), worker(2), cold(3), cold(4)]
    assert decided(snapshot(*team, stabilized_at=NOW + 1)).goals == {}
    assert decided(snapshot(*team)).goals != {}


def test_a_need_is_held_for_a_while() -> None:
    memory = decided(snapshot(*map(worker, range(1, 6)), demand=load(500))).memory
    for later_s, need in [(HOLD_S - 1, 500.0), (HOLD_S, 100.0)]:
        decision = decided(snapshot(*map(worker, range(1, 6)), demand=load(100), now=NOW + later_s), memory)
        assert decision.hot_need == need


def test_a_burst_counts_only_beyond_what_chance_explains() -> None:
    steady = Demand(rate=100.0, long_rate=100.0, recent_rate=140.0, recent_s=10.0)
    assert predicted_load(steady, TUNING) == 140.0
    assert predicted_load(replace(steady, variance=640.0), TUNING) == pytest.approx(140 - 1.5 * (60 * 640) ** 0.5 / 10)
    assert predicted_load(replace(steady, variance=1e6), TUNING) == 100.0
    lull = replace(steady, rate=40.0, recent_rate=40.0)
    assert predicted_load(lull, TUNING) == 40.0
    assert predicted_load(replace(lull, variance=6000.0), TUNING) == pytest.approx(
        55.0
    )  # 1.25 x sqrt(60 x 6000) / 60 off
    assert predicted_load(replace(lull, variance=1e6), TUNING) == 100.0


@given(st.floats(0, 1e9), st.integers(0, 1000), st.floats(1, 100), st.floats(0, 100))
def test_work_ahead_is_all_of_it_with_one_slot_and_never_more_with_more(
    work: float, count: int, slots: float, more: float
) -> None:
    assert work_ahead(work, count, 1.0) == (work if count else 0.0)
    assert 0.0 <= work_ahead(work, count, slots + more) <= work_ahead(work, count, slots) <= work
    assert 0.0 <= queued_work(work, count, slots) <= work_ahead(work, count, slots)


def test_large_requests_in_other_slots_are_no_wait() -> None:
    assert work_ahead(8000.0, 7, 8.0) == pytest.approx(8.0)
    assert work_ahead(800.0, 8, 8.0) == pytest.approx(100.0)  # until the first of eight ends
    assert queued_work(800.0, 8, 8.0) == 0.0
    assert queued_work(1000.0, 10, 8.0) == pytest.approx(200.0)


def test_the_sliding_maximum_forgets_what_is_too_old() -> None:
    history: tuple[tuple[float, float], ...] = ()
    highest = []
    for now, value in [(0, 1), (10, 5), (20, 3), (41, 2), (52, 1)]:
        history = sliding_max(history, now, value, hold_s=30)
        highest.append(history[0][1])
    assert highest == [1, 5, 5, 3, 2]


# -- states of an endpoint ---------------------------------------------------------------------------------------------


def test_a_suspended_endpoint_neither_rents_nor_releases() -> None:
    s = snapshot(worker(1), worker(2), cold(3), worker(4, State.LOADING), demand=load(5000))
    for demand in (load(5000), Demand()):
        quiet = replace(s, endpoint=replace(s.endpoint, state=EndpointState.SUSPENDED), demand=demand)
        assert (decided(quiet).goals, decided(quiet).rentals) == ({}, ())


def test_a_stopped_endpoint_makes_every_worker_inactive_and_rents_none() -> None:
    s = snapshot(
        worker(1), cold(2), worker(3, State.LOADING), worker(4, State.WANTED), worker(5, State.WANTED, Goal.COLD)
    )
    stopped = replace(s, endpoint=replace(s.endpoint, state=EndpointState.STOPPED), demand=load(5000))
    decision = decided(stopped)
    assert decision.rentals == ()
    assert decision.goals == {
        WorkerId(1): Goal.COLD,
        WorkerId(3): Goal.COLD,
        WorkerId(4): Goal.GONE,
        WorkerId(5): Goal.GONE,
    }


@pytest.mark.parametrize("state", EndpointState)
def test_a_failed_worker_goes_in_every_state_of_the_endpoint(state: EndpointState) -> None:
    s = snapshot(worker(1, State.ERROR))
    assert decided(replace(s, endpoint=replace(s.endpoint, state=state))).goals == {WorkerId(1): Goal.GONE}


def test_a_decision_says_why() -> None:
    decision = decided(snapshot(scaling=replace(BARE, target_util=0.9, max_workers=1), demand=load(900)))
    said = {reason.what: reason for reason in decision.because}
    assert said["load"].value == 900
    assert said["need for load"].value == 1000
    assert "max_workers 1 is reached" in said["no more hot workers"].rule


def test_a_decision_says_that_there_may_not_be_as_many_cold_workers_as_are_asked_for() -> None:
    decision = decided(snapshot(scaling=replace(BARE, cold_workers=5, max_workers=2)))
    (said,) = [reason for reason in decision.because if reason.what == "no more cold workers"]
    assert said.rule == "max_workers 2 is reached, below cold_workers 5"


# -- routing -----------------------------------------------------------------------------------------------------------


def picked(work: list[float], perf: list[float], cost: float, max_queue_s: float, tie_break: int = 0) -> int | None:
    with np.errstate(divide="ignore", over="ignore"):
        return pick(np.array(work), 1.0 / np.array(perf), cost, max_queue_s, tie_break)


def test_the_worker_that_would_finish_soonest_is_picked() -> None:
    assert picked([0, 100], [10, 100], cost=100, max_queue_s=60) == 1
    assert picked([0, 1000], [10, 100], cost=10, max_queue_s=60) == 0


def test_a_worker_whose_wait_is_above_the_limit_is_not_picked() -> None:
    assert picked([1000], [100], cost=1, max_queue_s=10) == 0
    assert picked([1001], [100], cost=1, max_queue_s=10) is None


def test_a_worker_without_performance_is_not_picked() -> None:
    assert picked([0.0], [0.0], cost=0, max_queue_s=10) is None
    assert picked([0.0], [5e-324], cost=1, max_queue_s=10) is None
    assert picked([], [], cost=1, max_queue_s=10) is None


def test_a_penalty_counts_as_wait() -> None:
    assert pick(np.zeros(2), np.full(2, 0.01), 1, 10, 0, np.array([5.0, 4.0])) == 1
    assert pick(np.array([0.0, 900.0]), np.full(2, 0.01), 1, 10, 0, np.array([11.0, 0.0])) == 1
    assert pick(np.array([0.0, 1001.0]), np.full(2, 0.01), 1, 10, 0, np.array([11.0, 0.0])) is None


def test_a_penalty_grows_with_failures_and_decays_only_while_the_worker_reports() -> None:
    assert [penalty_s(Failures(n, NOW), NOW - 1, NOW + 100) for n in (1, 2, 3, 50)] == [5.0, 10.0, 20.0, 60.0]
    reported = [penalty_s(Failures(3, NOW), NOW + 1, NOW + span_s) for span_s in (10, 20, 90)]
    assert reported == [10.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("penalties", "counted"),
    [
        ([60.0], [0.0]),
        ([0.0, 60.0], [0.0, 60.0]),
        ([60.0, 60.0], [0.0, 0.0]),
        ([0.0, 20.0, 60.0], [0.0, 0.0, 40.0]),
        ([0.0, 0.0, 20.0, 60.0], [0.0, 0.0, 20.0, 60.0]),
    ],
)
def test_at_most_half_of_the_workers_are_put_aside(penalties: list[float], counted: list[float]) -> None:
    assert beyond_median(np.array(penalties)).tolist() == counted


def test_equals_are_told_apart_by_the_die_where_no_work_will_tell_them_apart() -> None:
    assert [picked([0] * 3, [1] * 3, 0, 10, tie_break) for tie_break in range(4)] == [0, 1, 2, 0]
    assert [picked([0] * 3, [1] * 3, 1, 10, tie_break) for tie_break in range(4)] == [0, 0, 0, 0]


def test_one_request_that_waited_for_a_start_makes_no_second_worker() -> None:
    """It waits longer than `target_queue_time` just as the first worker becomes ready, which is all it needs."""

    def needed(demand: Demand) -> HotNeed:
        return hot_need(Scaling(min_load=0.0), demand, 25.0, 200.0, [], 8.0, TUNING)

    demand = Demand(rate=4.0, recent_rate=25.0, waiting=256.0, waiting_count=1, oldest_wait_s=12.0)
    assert needed(demand).need < 200.0
    assert "need for backlog" not in {rule.what for rule in needed(demand).because}
    many = needed(replace(demand, waiting=6_000.0))
    assert many.need > 200.0
    assert "need for backlog" in {rule.what for rule in many.because}


# -- one tolerance: added below 90 %, removed above 100 % --------------------------------------------------------------


@pytest.mark.parametrize(
    ("target_util", "rate", "starts"),
    [(0.9, 400.0, False), (0.9, 401.0, True), (0.5, 222.0, False), (0.5, 223.0, True), (1.0, 401.0, True)],
)
def test_workers_are_added_where_a_tenth_of_the_need_is_missing_or_any_of_the_load(
    target_util: float, rate: float, starts: bool
) -> None:
    scaling, demand = replace(BARE, target_util=target_util), load(rate)
    four = [worker(number) for number in range(1, 5)]
    decision = decided(snapshot(*four, cold(5), scaling=scaling, demand=demand))
    assert (decision.goals.get(WorkerId(5)) is Goal.HOT) is starts
    assert rented(decided(snapshot(*four, scaling=scaling, demand=demand))) == (int(starts), 0)


def test_hot_workers_rest_where_the_others_can_do_all_of_the_need() -> None:
    team = [worker(1), worker(2), worker(3)]
    scaling = replace(BARE, target_util=0.9)
    assert decided(snapshot(*team, scaling=scaling, demand=load(180))).goals == {WorkerId(3): Goal.COLD}
    assert decided(snapshot(*team, scaling=scaling, demand=load(181))).goals == {}


def test_cold_workers_are_made_where_a_tenth_of_the_reserve_is_missing_or_any_that_was_asked_for() -> None:
    def made(**fields: float) -> tuple[int, int]:
        team = [worker(1), worker(2), *map(cold, (3, 4))]
        scaling = replace(BARE, target_util=0.9, **fields)  # type: ignore[arg-type]
        return rented(decided(snapshot(*team, scaling=scaling, demand=load(180)), Memory(hour_rate=180.0, at=NOW)))

    assert made(cold_mult=2.2) == (0, 0)  # 440: they are made below 396
    assert made(cold_mult=2.3) == (0, 1)
    assert made(min_cold_load=401.0) == (0, 1)


def test_cold_workers_go_where_the_others_can_do_all_of_the_reserve() -> None:
    def goes(**fields: float) -> bool:
        team = [worker(1), worker(2), *map(cold, (3, 4, 5))]
        scaling = replace(BARE, target_util=0.9, **fields)  # type: ignore[arg-type]
        goals = decided(snapshot(*team, scaling=scaling, demand=load(180)), Memory(hour_rate=180.0, at=NOW)).goals
        return goals == {WorkerId(5): Goal.GONE}

    assert goes(cold_mult=2.0)  # 400
    assert not goes(cold_mult=2.1)
    assert goes(min_cold_load=400.0)
    assert not goes(min_cold_load=401.0)


def test_capacity_in_all_is_held_for_an_hour() -> None:
    scaling = replace(BARE, cold_mult=2)
    memory = decided(snapshot(worker(1), demand=load(200), scaling=scaling)).memory
    team = [worker(1), cold(2), cold(3), cold(4)]
    held = snapshot(*team, demand=load(100), scaling=scaling, now=NOW + TUNING.reserve_s - 1)
    assert decided(held, memory).goals == {}
    over = replace(held, now=NOW + TUNING.reserve_s)
    assert decided(over, memory).goals == {WorkerId(4): Goal.GONE, WorkerId(3): Goal.GONE}


def test_a_kind_that_was_never_measured_is_taken_to_do_as_much_for_its_money_as_the_others_of_its_workergroup() -> None:
    perf = {"1/1xA@sim": 100.0, "1/1xB@sim": 900.0, "2/1xC@sim": 1e6}
    estimates = Estimates(perf, work_per_usd={"1/1xA@sim": 200.0, "1/1xB@sim": 300.0, "2/1xC@sim": 1e6})
    assert expected_perf("1/1xA@sim", 9.0, estimates) == 100.0
    assert expected_perf("1/1xOther@sim", 2.0, estimates) == 250.0 * 2.0
    assert expected_perf("3/1xOther@sim", 2.0, estimates) == 300.0 * 2.0  # a workergroup that knows nothing itself
    assert expected_perf("1/1xOther@sim", 0.0, estimates) == 900.0  # where nothing costs anything: the median


def test_where_nothing_is_known_what_is_made_first_is_of_several_kinds() -> None:
    offers = (
        offer("a", 1.0),
        offer("b", 1.2, gpu_name="B"),
        offer("c", 1.4, gpu_name="C"),
        offer("d", 9, gpu_name="D"),
    )
    s = snapshot(scaling=replace(BARE, cold_workers=4), demand=load(10), offers=offers, estimates=Estimates())
    assert [r.offer.offer.id for r in decided(s).rentals] == ["a", "b", "c", "a"]  # but not at any price


def test_a_kind_of_which_many_fail_is_dearer() -> None:
    offers = (offer("a", 1.0), offer("b", 1.2, gpu_name="Big"))
    for success_rate, taken in [(1.0, "a"), (0.9, "a"), (0.8, "b")]:
        estimates = Estimates({KIND: 100.0, BIG: 100.0}, success_rate={KIND: success_rate})
        assert decided(snapshot(demand=load(90), offers=offers, estimates=estimates)).rentals[0].offer.offer.id == taken


def first(*offers: GroupOffer, **fields: object) -> str:
    """The offer that is rented for one more worker."""
    s = replace(snapshot(demand=load(90), offers=offers), **fields)  # type: ignore[arg-type]
    return decided(s).rentals[0].offer.offer.id


def at(provider: str, entry: GroupOffer, **fields: object) -> GroupOffer:
    return replace(entry, offer=replace(entry.offer, provider=provider, **fields))  # type: ignore[arg-type]


def test_an_equal_machine_of_another_provider_is_taken_to_do_the_same_until_it_is_measured() -> None:
    here, there = offer("a", 1.0), at("other", offer("b", 0.9))
    assert first(here, there) == "b"
    slow = Estimates({KIND: 100.0, KIND.replace("sim", "other"): 60.0})
    assert first(here, there, estimates=slow) == "a"


def test_the_time_until_it_is_ready_is_paid_for() -> None:
    quick, slow = offer("a", 1.05), at("slow", offer("b", 1.0))
    estimates = Estimates({KIND: 100.0}, create_s=60.0, create_s_of={KIND.replace("sim", "slow"): 600.0})
    assert first(quick, slow, estimates=estimates) == "a"  # 1.05 x (1 + 60/3600) = 1.07, 1.00 x (1 + 600/3600) = 1.17
    # What has the model already starts like a stopped worker.
    kept, loaded = at("slow", slow, keeps_files=True), ((GROUP, "m"),)
    assert first(quick, kept, estimates=estimates, loaded_on=loaded) == "b"
    assert first(quick, slow, estimates=estimates, loaded_on=loaded) == "a"


def test_what_failed_on_a_host_is_held_against_it_for_some_hours() -> None:
    bad, good = offer("a", 1.0, machine="bad"), offer("b", 1.4, machine="good")
    for failures, taken in [(1.0, "b"), (0.5, "b"), (0.25, "a")]:
        assert first(bad, good, held_against={"bad": failures}) == taken


def test_workers_of_one_price_are_spread_over_hosts_and_zones() -> None:
    places = [(f"{zone}{n}", zone) for zone in ("east", "west") for n in (1, 2)]
    offers = [at("sim", offer(name, 1.0, machine=name), zone=zone) for name, zone in places]
    four = decided(snapshot(demand=load(400), offers=tuple(offers))).rentals
    assert sorted(r.offer.offer.machine for r in four) == ["east1", "east2", "west1", "west2"]
    assert [r.offer.offer.zone for r in four][:2] == ["east", "west"]
    there = worker(1, zone="east")
    assert rental_zones(snapshot(there, demand=load(200), offers=tuple(offers))) == ["west"]
    dear = [replace(o, offer=replace(o.offer, price=Price(1.2))) if o.offer.zone == "west" else o for o in offers]
    assert rental_zones(snapshot(there, demand=load(200), offers=tuple(dear))) == ["east"]


def rental_zones(s: Snapshot) -> list[str]:
    return [r.offer.offer.zone for r in decided(s).rentals]


def test_what_got_dear_is_replaced_where_its_work_costs_a_tenth_less() -> None:
    dear = worker(1, price=Price(2.0))
    for usd_h, many in [(1.0, 1), (1.75, 1), (1.85, 0)]:
        s = snapshot(dear, demand=load(95), offers=(at("other", offer("b", usd_h)),))
        assert rented(decided(s)) == (many, 0), usd_h
    s = snapshot(dear, demand=load(95), offers=(at("other", offer("b", 1.0, gpu_name="Unmeasured")),))
    assert rented(decided(s)) == (0, 0)
    room_for_one = replace(BARE, max_workers=1)
    full = snapshot(dear, demand=load(95), scaling=room_for_one, offers=(at("other", offer("b", 1.0)),))
    assert [r.rule for r in decided(full).because if r.what == "not replaced"] == [
        "its work costs $2.00/h, at other $1.01/h; max_workers leaves no room for both"
    ]


def test_no_worker_is_replaced_by_another_one_of_its_provider() -> None:
    dear, here = worker(1, price=Price(2.0)), offer("here", 0.5)
    assert rented(decided(snapshot(dear, demand=load(95), offers=(here,)))) == (0, 0)
    found = decided(snapshot(dear, demand=load(95), offers=(here, at("other", offer("b", 1.0))))).rentals
    assert [r.offer.offer.provider for r in found] == ["other"]  # though what would be rented first is here


def test_a_worker_that_does_its_work_for_less_is_not_replaced_by_a_smaller_one() -> None:
    kinds = Estimates({KIND: 1000.0, KIND.replace("GPU", "Small"): 30.0}, start_s=5.0, create_s=30.0)
    large, small = worker(1, perf=1000.0, price=Price(2.0)), offer("b", 0.5, gpu_name="Small")
    assert rented(decided(snapshot(large, demand=load(20), offers=(small,), estimates=kinds))) == (0, 0)


def test_what_is_to_replace_a_dear_worker_is_waited_for_and_that_one_goes() -> None:
    dear, coming = worker(1, price=Price(2.0)), worker(2, State.CREATING, perf=0.0, provider="other")
    known = Estimates({KIND: 100.0, KIND.replace("sim", "other"): 100.0})
    assert decided(snapshot(dear, coming, demand=load(95), estimates=known)).goals == {}
    both = snapshot(dear, worker(2, provider="other"), demand=load(95))
    assert decided(both).goals == {WorkerId(1): Goal.COLD}
    for other in (worker(1), worker(1, price=Price(2.0), provider="other")):
        equal = snapshot(other, coming, demand=load(95), estimates=known)
        assert decided(equal).goals == {WorkerId(2): Goal.COLD}  # help that is not needed


def test_who_is_too_many_rests_while_a_replacement_is_on_its_way() -> None:
    dear, coming = worker(1, price=Price(2.0)), worker(2, State.CREATING, perf=0.0, provider="other")
    assert decided(snapshot(dear, coming, worker(3), worker(4), demand=load(95))).goals == {WorkerId(1): Goal.COLD}
    large = worker(1, price=Price(20.0), perf=1000.0)  # it does more than is too much
    assert decided(snapshot(large, coming, worker(3), demand=load(950))).goals == {WorkerId(3): Goal.COLD}


@given(st.floats(0.01, 10), st.floats(1, 1000), st.floats(0, 2000))
def test_to_cover_costs_one_worker_or_as_many_as_it_takes(usd_h: float, perf: float, missing: float) -> None:
    cost = cover_usd_h(usd_h, perf, missing)
    assert cost == (usd_h if perf >= missing else pytest.approx(usd_h * missing / perf))
    assert cover_usd_h(usd_h, math.inf, missing) == usd_h
