"""What holds for every decision, whatever the fleet, the load and the parameters."""

import math
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from posthouse.domain.decision import Cap, Decision, Failures, Memory, Snapshot
from posthouse.domain.demand import Demand
from posthouse.domain.endpoint import SLO_MODES, Endpoint, EndpointId, EndpointState, Scaling, WorkergroupId
from posthouse.domain.estimates import Estimates
from posthouse.domain.lifecycle import COMING, Goal, State, goal_beyond_update
from posthouse.domain.offer import GroupOffer, Offer, Price
from posthouse.domain.worker import Worker, WorkerId
from posthouse.policy.capacity import USABLE, hot, perf_of, ready, supply
from posthouse.policy.decide import decide
from posthouse.policy.draft import committed_usd_h
from posthouse.policy.forecast import predicted_load
from posthouse.policy.needs import expected_wait_s, hot_need, least_hot
from posthouse.policy.rollout import INACTIVE
from posthouse.policy.tuning import TUNING

NOW = 1e6
ONE_PRICE = Price(1.0, 1.0, 0.1)
amounts = st.sampled_from([0.0, 1e-9, 1e12]) | st.floats(0, 1e4)
prices = st.builds(Price, st.floats(0, 10), st.floats(0, 10), st.floats(0, 1))
scalings = st.builds(
    Scaling,
    min_load=amounts,
    target_util=st.floats(0.01, 1),
    cold_mult=st.floats(0, 1000),
    min_cold_load=amounts,
    cold_workers=st.integers(0, 12),
    max_workers=st.integers(0, 12),
    max_queue_time=st.floats(0.1, 86_400),
    target_queue_time=st.floats(0.1, 86_400),
    inactivity_timeout=st.none() | st.sampled_from([0.0, -1.0, 300.0]),
    max_usd_h=st.none() | st.floats(0, 30),
    slo_mode=st.sampled_from(SLO_MODES),
)
demands = st.builds(
    Demand,
    rate=amounts,
    long_rate=amounts,
    recent_rate=amounts,
    waiting=amounts,
    waiting_count=st.integers(0, 100),
    outstanding=amounts,
    queued=amounts,
    variance=amounts,
    cost=amounts,
    service_s=amounts,
    oldest_wait_s=amounts,
    last_request_at=st.floats(0, NOW),
)
groups = st.sampled_from([WorkergroupId(1), WorkergroupId(2)])
gpus = st.sampled_from(["A", "B"])
kinds = st.sampled_from(["1/1xA@sim", "1/1xB@sim", "2/1xA@sim", "1/1xA@other"])
learneds = st.builds(
    Estimates,
    perf=st.dictionaries(kinds, st.floats(0.01, 1e6)),
    work_per_usd=st.dictionaries(kinds, st.floats(0.01, 1e6)),
    success_rate=st.dictionaries(kinds, st.floats(0.05, 0.95)),
    start_s=st.floats(0, 1000),
    create_s=st.floats(0, 5000),
)
group_offers = st.builds(
    GroupOffer,
    groups,
    st.builds(
        Offer,
        id=st.sampled_from(["o1", "o2", "o3"]),
        provider=st.just("sim"),
        machine=st.sampled_from(["m1", "m2"]),
        price=prices,
        gpu_name=gpus,
        num_gpus=st.just(1),
        available=st.integers(0, 20),
    ),
)
failures = st.builds(Failures, st.integers(0, 100), st.floats(0, NOW))
memories = st.builds(
    Memory,
    hot_needs=st.lists(st.tuples(st.floats(NOW - 60, NOW), amounts), max_size=1).map(tuple),
    total_needs=st.lists(st.tuples(st.floats(NOW - 900, NOW), amounts), max_size=1).map(tuple),
    released_at=st.floats(0, NOW),
)


@st.composite
def teams(draw: st.DrawFn) -> tuple[Worker, ...]:
    team = []
    for number in range(1, draw(st.integers(0, 10)) + 1):
        team.append(
            Worker(
                id=WorkerId(number),
                endpoint_id=EndpointId(1),
                group_id=draw(groups),
                label=f"test-{number}",
                provider="sim",
                offer_id="o1",
                machine="m1",
                gpu_name=draw(gpus),
                num_gpus=1,
                price=draw(prices),
                created_at=NOW - 1000,
                state=draw(st.sampled_from([s for s in State if s is not State.DESTROYED])),
                goal=draw(st.sampled_from(Goal)),
                perf=draw(st.sampled_from([0.0, 100.0]) | st.floats(0.01, 1e6)),
                since=draw(st.sampled_from([NOW - 5, NOW - 900])),
                load_s=draw(st.floats(0, 600)),
                outdated_at=draw(st.sampled_from([0.0, 0.0, NOW - 20, NOW - 10])),
            )
        )
    return tuple(team)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    team = draw(teams())
    ids = [w.id for w in team]
    return Snapshot(
        now=NOW,
        endpoint=Endpoint(EndpointId(1), "e", draw(scalings)),
        workers=team,
        demand=draw(demands),
        offers=tuple(draw(st.lists(group_offers, max_size=4, unique_by=lambda o: (o.group_id, o.offer.id)))),
        estimates=draw(learneds),
        busy=frozenset(draw(st.lists(st.sampled_from(ids), max_size=3)) if ids else ()),
        resting=frozenset(draw(st.lists(st.sampled_from(ids), max_size=3)) if ids else ()),
        group_failures=draw(st.dictionaries(groups, failures)),
        machine_failures=draw(st.dictionaries(st.sampled_from(["m1", "m2"]), failures)),
        stabilized_at=draw(st.sampled_from([0.0, NOW + 1])),
    )


def after(s: Snapshot, decision: Decision) -> list[Worker]:
    return [replace(w, goal=decision.goals.get(w.id, w.goal)) for w in s.workers]


def begun(s: Snapshot, decision: Decision) -> list[Worker]:
    """Workers whose turn to be updated the decision begins."""
    return [w for w in s.workers if w.goal is not Goal.UPDATED and decision.goals.get(w.id) is Goal.UPDATED]


@given(snapshots(), memories)
def test_there_are_never_more_than_max_workers(s: Snapshot, memory: Memory) -> None:
    decision = decide(s, memory)
    most = s.endpoint.scaling.max_workers
    assert len(decision.rentals) <= max(0, most - len(s.workers))
    assert sum(w.goal is not Goal.GONE for w in after(s, decision)) <= most


@given(snapshots(), memories)
def test_what_is_needed_is_a_number(s: Snapshot, memory: Memory) -> None:
    decision = decide(s, memory)
    assert math.isfinite(decision.hot_need)
    assert decision.hot_need >= 0
    assert math.isfinite(decision.ready_supply)
    assert not math.isnan(decision.hot_supply)
    assert all(not isinstance(r.value, float) or math.isfinite(r.value) for r in decision.because)


@given(snapshots(), memories)
def test_the_same_is_decided_from_the_same(s: Snapshot, memory: Memory) -> None:
    assert decide(s, memory) == decide(s, memory)


@given(snapshots(), memories)
def test_the_order_of_workers_and_offers_decides_nothing(s: Snapshot, memory: Memory) -> None:
    mirrored = replace(s, workers=s.workers[::-1], offers=s.offers[::-1])
    one, other = decide(s, memory), decide(mirrored, memory)
    assert (one.goals, one.rentals) == (other.goals, other.rentals)


@given(snapshots(), memories)
def test_a_failed_worker_always_goes_and_one_that_goes_never_returns(s: Snapshot, memory: Memory) -> None:
    for worker in after(s, decide(s, memory)):
        before = next(w for w in s.workers if w.id == worker.id)
        assert worker.goal is Goal.GONE or (before.state is not State.ERROR and before.goal is not Goal.GONE)


def uncapped(s: Snapshot) -> Snapshot:
    """The same, where money is no limit."""
    return replace(s, endpoint=replace(s.endpoint, scaling=replace(s.endpoint.scaling, max_usd_h=None)))


@given(snapshots(), memories)
def test_none_rests_that_is_needed(s: Snapshot, memory: Memory) -> None:
    s = uncapped(s)  # a lowered cap lets go what is needed, too
    decision = decide(s, memory)
    rested = [w for w in s.workers if w.goal is Goal.HOT and decision.goals.get(w.id) is Goal.COLD]
    if not rested:
        return
    assert s.now >= s.stabilized_at
    left = hot(after(s, decision))
    needed = decision.hot_need
    if left or needed > 0:
        if not all(w.state is State.IDLE for w in rested):  # help on its way: those that serve are enough
            assert not any(w.state is State.IDLE for w in rested)
            serving = [w for w in ready(s.workers) if decision.goals.get(w.id, Goal.HOT) is not Goal.UPDATED]
            assert supply(serving, s.estimates) >= needed * (1 - 1e-9)
            return
        assert not any(w.state in COMING for w in left)
        if len(left) + sum(decision.goals.get(w.id) is Goal.GONE for w in s.workers) <= s.endpoint.scaling.max_workers:
            team = [w for w in hot(s.workers) if w not in rested]  # before max_workers takes its own
            assert supply(team, s.estimates) + sum(
                perf_of(w, s.estimates)
                for w in s.workers
                if w.goal is Goal.COLD and decision.goals.get(w.id) is Goal.HOT
            ) >= needed * (1 - 1e-9)


@given(snapshots(), memories)
def test_none_is_released_that_was_just_taken_on(s: Snapshot, memory: Memory) -> None:
    s = uncapped(s)  # a lowered cap lets go what is needed, too
    decision = decide(s, memory)
    woken = {w.id for w in s.workers if w.goal is Goal.COLD and decision.goals.get(w.id) is Goal.HOT}
    rests = {w.id for w in s.workers if w.goal is Goal.HOT and decision.goals.get(w.id) is Goal.COLD}
    serve_at_once = {w.id for w in s.workers if w.id in woken and w.state is State.IDLE}
    coming = {w.id for w in s.workers if w.state in COMING}
    assert not (woken and rests) or (serve_at_once and rests <= coming)  # who is idle makes who still comes needless
    assert not (decision.rentals and Goal.HOT in {r.goal for r in decision.rentals} and rests)


@given(snapshots(), memories, st.sampled_from([EndpointState.SUSPENDED, EndpointState.STOPPED]))
def test_an_endpoint_that_is_not_active_recruits_nobody(s: Snapshot, memory: Memory, state: EndpointState) -> None:
    scaling = replace(s.endpoint.scaling, max_usd_h=None)
    decision = decide(replace(s, endpoint=replace(s.endpoint, state=state, scaling=scaling)), memory)
    assert decision.rentals == ()
    assert decision.memory == memory
    assert Goal.UPDATED not in [w.goal for w in after(s, decision)]
    if state is EndpointState.SUSPENDED:
        called_off = {w.id: goal_beyond_update(w.state) for w in s.workers if w.goal is Goal.UPDATED}
        failed = {w.id: Goal.GONE for w in s.workers if w.state is State.ERROR and w.goal is not Goal.GONE}
        assert decision.goals == called_off | failed
    else:
        assert Goal.HOT not in [w.goal for w in after(s, decision)]


def capped(s: Snapshot, usd_h: float | None) -> tuple[Snapshot, float | None]:
    """The same where others leave so much, and the cap that this makes."""
    caps = [cap for cap in (s.endpoint.scaling.max_usd_h, usd_h) if cap is not None]
    return replace(s, cap=None if usd_h is None else Cap(usd_h, "shared")), min(caps, default=None)


@given(snapshots(), memories, st.none() | st.floats(0, 30))
def test_nothing_is_taken_on_beyond_the_cap_on_money(s: Snapshot, memory: Memory, left_usd_h: float | None) -> None:
    s, cap = capped(s, left_usd_h)
    decision = decide(s, memory)
    woken = [w for w in s.workers if w.goal is Goal.COLD and decision.goals.get(w.id) is Goal.HOT]
    rented_usd_h = sum(r.offer.offer.price.running_usd_h for r in decision.rentals)
    dearer = rented_usd_h + sum(committed_usd_h(replace(w, goal=Goal.HOT)) - committed_usd_h(w) for w in woken)
    if cap is not None and dearer > 1e-9:
        assert sum(map(committed_usd_h, after(s, decision))) + rented_usd_h <= cap * (1 + 1e-6) + 1e-6


@given(snapshots(), memories, st.none() | st.floats(0, 30))
def test_what_is_wanted_never_costs_more_than_the_cap_on_money(
    s: Snapshot, memory: Memory, left_usd_h: float | None
) -> None:
    s, cap = capped(s, left_usd_h)
    decision = decide(s, memory)
    if cap is None:
        return
    wanted = [w for w in after(s, decision) if w.goal is not Goal.GONE]
    running = [w for w in wanted if w.goal in (Goal.HOT, Goal.UPDATED) or w.state in COMING - {State.STARTING}]
    usd_h = sum(r.offer.offer.price.running_usd_h for r in decision.rentals)
    usd_h += sum(w.price.running_usd_h for w in running)
    # To store one costs no more than to run it: else to let it rest would pass the cap.
    usd_h += sum(min(w.price.stopped_usd_h, w.price.running_usd_h) for w in wanted if w not in running)
    assert usd_h <= cap * (1 + 1e-6) + 1e-6


@given(snapshots(), memories)
def test_no_offer_is_rented_more_often_than_it_is_available(s: Snapshot, memory: Memory) -> None:
    decision = decide(s, memory)
    for entry in s.offers:
        taken = sum(r.offer.offer.id == entry.offer.id for r in decision.rentals)
        assert taken <= max(o.offer.available for o in s.offers if o.offer.id == entry.offer.id)


@given(snapshots(), memories)
def test_what_is_short_is_taken_on_where_nothing_is_in_the_way(s: Snapshot, memory: Memory) -> None:
    plenty = replace(s.endpoint.scaling, max_usd_h=None, max_workers=10_000, min_load=1.0, min_cold_load=0.0)
    offer = Offer("o", "sim", "m", Price(1, 1, 0.1), "A", 1, 10_000)
    s = replace(
        s,
        endpoint=replace(s.endpoint, scaling=replace(plenty, cold_mult=0.0, target_util=1.0)),
        offers=(GroupOffer(WorkergroupId(1), offer),),
        group_failures={},
        estimates=Estimates({"1/1xA@sim": 1e9}),
    )
    decision = decide(s, memory)
    rented = sum(1e9 for r in decision.rentals if r.goal is Goal.HOT)
    coming = hot(after(s, decision)) + begun(s, decision)  # who is updated while it takes no requests will
    lasts = next(float(reason.value) for reason in decision.because if reason.what == "need to rent for")
    assert lasts <= decision.hot_need
    load = next(float(reason.value) for reason in decision.because if reason.what == "load")
    assert supply(coming, s.estimates) + rented >= max(lasts * (1 - TUNING.tolerance), min(lasts, load)) * (1 - 1e-9)


@given(scalings, demands, demands, amounts, st.lists(st.tuples(amounts, amounts), max_size=3), amounts)
def test_more_load_never_means_less_capacity(
    scaling: Scaling, one: Demand, more: Demand, ready: float, arrivals: list[tuple[float, float]], help_s: float
) -> None:
    higher = replace(
        one,
        rate=one.rate + more.rate,
        long_rate=one.long_rate + more.long_rate,
        recent_rate=one.recent_rate + more.recent_rate,
        waiting=one.waiting + more.waiting,
        outstanding=one.outstanding + more.outstanding,
        queued=one.queued + more.queued,
        oldest_wait_s=one.oldest_wait_s + more.oldest_wait_s,
    )
    need = hot_need(scaling, one, predicted_load(one, TUNING), ready, arrivals, help_s, TUNING).need
    more_need = hot_need(scaling, higher, predicted_load(higher, TUNING), ready, arrivals, help_s, TUNING).need
    assert more_need >= need
    assert expected_wait_s(higher, ready) >= expected_wait_s(one, ready)


@given(snapshots(), memories, amounts, amounts)
def test_more_load_never_means_fewer_hot_workers(s: Snapshot, memory: Memory, rate: float, waiting: float) -> None:
    # Of one kind and price: one large worker may stand for two small ones, and what costs more is replaced in a lull.
    s = replace(
        s,
        endpoint=replace(s.endpoint, scaling=replace(s.endpoint.scaling, max_usd_h=None)),
        workers=tuple(replace(w, gpu_name="A", perf=100.0, price=ONE_PRICE) for w in s.workers),
        offers=tuple(replace(o, offer=replace(o.offer, gpu_name="A", price=ONE_PRICE)) for o in s.offers),
        estimates=replace(s.estimates, perf={"1/1xA@sim": 100.0, "2/1xA@sim": 100.0}),
    )
    more = replace(
        s.demand, rate=s.demand.rate + rate, recent_rate=s.demand.recent_rate + rate, waiting=s.demand.waiting + waiting
    )
    less_hot, more_hot = (_hot_after(x, memory) for x in (s, replace(s, demand=more)))
    assert more_hot >= less_hot


def _hot_after(s: Snapshot, memory: Memory) -> int:
    decision = decide(s, memory)
    kept = sum(w.goal is Goal.HOT and w.state in USABLE for w in after(s, decision))
    kept += len(begun(s, decision))  # who is updated takes requests then
    return kept + sum(r.goal is Goal.HOT for r in decision.rentals)


@given(snapshots(), memories)
def test_only_who_was_asked_to_be_updated_is(s: Snapshot, memory: Memory) -> None:
    decision = decide(s, memory)
    for worker in begun(s, decision):
        assert worker.outdated_at > 0
        assert worker.state in INACTIVE | {State.IDLE}
        assert worker.id not in s.resting


@given(snapshots(), memories)
def test_a_turn_that_was_called_off_is_over(s: Snapshot, memory: Memory) -> None:
    cancelled = replace(s, workers=tuple(replace(w, outdated_at=0.0) for w in s.workers))
    assert Goal.UPDATED not in [w.goal for w in after(cancelled, decide(cancelled, memory))]


@given(snapshots(), memories, st.booleans())
def test_updates_leave_enough_ready_workers_while_help_can_be_had(s: Snapshot, memory: Memory, all_serve: bool) -> None:
    if all_serve:  # so that turns are not as rare as among workers of all kinds
        serving = [replace(w, state=State.IDLE, goal=Goal.HOT, perf=100.0, outdated_at=NOW - 10) for w in s.workers]
        s = replace(s, workers=tuple(serving), resting=frozenset())
    decision = decide(s, memory)
    serving = [w for w in begun(s, decision) if w.state is State.IDLE]
    if not serving:
        return
    rest = [w for w in ready(s.workers) if w not in serving]
    enough = supply(rest, s.estimates) >= decision.hot_need and len(rest) >= least_hot(
        s.endpoint.scaling, s.demand, NOW
    )
    left = after(s, decision)
    alone = len(serving) == 1 and all(w.state is State.IDLE for w in hot(left))
    alone = alone and Goal.HOT not in [r.goal for r in decision.rentals]
    failed = s.group_failures.get(serving[0].group_id, Failures())
    history = s.endpoint.scaling.max_workers <= len(s.workers) and failed.last_at + TUNING.max_backoff_s <= NOW
    assert enough or (alone and (not failed.count or history))


@given(snapshots(), memories, st.booleans())
def test_who_is_started_is_not_sent_back_where_nothing_else_happens(
    s: Snapshot, memory: Memory, all_needed: bool
) -> None:
    if all_needed:  # so that starts for the update of a failing workergroup are not as rare as with any need
        equal: dict[str, Any] = {"group_id": WorkergroupId(1), "price": Price(1.0, 1.0, 0.1), "perf": 100.0}
        team = [replace(w, **equal) for w in s.workers]
        idle = [replace(w, state=State.IDLE, goal=Goal.HOT) for w in team[::2]]
        cold = [replace(w, state=State.STOPPED, goal=Goal.COLD, outdated_at=0.0) for w in team[1::2]]
        s = replace(s, workers=(*idle, *cold), demand=Demand(last_request_at=NOW), resting=frozenset())
        s = replace(s, group_failures={WorkergroupId(1): Failures(1, NOW - TUNING.max_backoff_s)})
        scaling = replace(s.endpoint.scaling, min_load=0.0, max_usd_h=None)
        s = replace(s, endpoint=replace(s.endpoint, scaling=scaling))
        memory = replace(memory, hot_needs=((NOW, 100.0 * len(idle)),))
    decision = decide(s, memory)
    woken = {w.id for w in s.workers if w.state is State.STOPPED and decision.goals.get(w.id) is Goal.HOT}
    if not woken:
        return
    team = [replace(w, state=State.STARTING, since=NOW) if w.id in woken else w for w in after(s, decision)]
    then = decide(replace(s, workers=tuple(team)), decision.memory)
    assert not [i for i in woken if then.goals.get(i) is Goal.COLD]


@given(snapshots(), memories)
def test_the_last_hot_worker_does_not_rest_soon_after_a_request(s: Snapshot, memory: Memory) -> None:
    scaling = replace(s.endpoint.scaling, inactivity_timeout=None, min_load=0.0, max_usd_h=None)
    endpoint = replace(s.endpoint, state=EndpointState.ACTIVE, scaling=scaling)
    estimates, silence = replace(s.estimates, start_s=30.0), Demand(last_request_at=NOW - 500)
    s = replace(s, endpoint=endpoint, estimates=estimates, demand=silence, stabilized_at=0.0)
    decision = decide(s, replace(memory, hot_needs=()))
    resting = [w for w in s.workers if w.goal is Goal.HOT and decision.goals.get(w.id) is Goal.COLD]
    assert not resting or hot(after(s, decision)) or Goal.GONE in decision.goals.values()


@given(snapshots(), memories)
def test_few_are_updated_at_one_time(s: Snapshot, memory: Memory) -> None:
    for states in (INACTIVE, {State.IDLE}):
        turns = [w for w in begun(s, decide(s, memory)) if w.state in states]
        assert len(turns) <= max(1, TUNING.max_unavailable * len(s.workers))
