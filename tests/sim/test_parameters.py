"""Each scaling parameter does what its documentation says, in virtual time."""

from dataclasses import replace
from functools import cache

import pytest

from posthouse.domain.endpoint import EndpointState, Scaling, defaults
from posthouse.domain.estimates import Estimates
from posthouse.domain.lifecycle import COMING, Command, Goal, State
from posthouse.policy.tuning import TUNING
from tests.kit.marks import long
from tests.sim.world import START_AT, Machines, World

BARE = Scaling(min_load=0.0, target_util=0.9, cold_mult=0.0, cold_workers=0, max_workers=50)
"""No floor and no reserve."""


def test_target_util_900_of_load_at_0_9_keep_1000_of_capacity() -> None:
    world = World(BARE, load=lambda t: 900.0).run(300)
    settled = world.history[-100:]
    assert all(moment.need == pytest.approx(1000) for moment in settled)
    assert {moment.number(State.IDLE) for moment in settled} == {10}
    assert world.cut == []


def test_min_load_is_a_floor_of_the_capacity_that_is_ready() -> None:
    world = World(replace(BARE, min_load=450)).run(300)
    assert world.count(State.IDLE) == 5
    world.configure(min_load=90.0)
    world.run(900)
    assert world.count(State.IDLE) == 1


@pytest.mark.parametrize("timeout_s", [None, 60.0])
def test_min_load_above_zero_keeps_one_worker(timeout_s: float | None) -> None:
    world = World(replace(BARE, min_load=1.0, inactivity_timeout=timeout_s)).run(1000)
    assert world.count(State.IDLE) == 1
    assert world.times(Command.STOP) == []


@pytest.mark.long
def test_cold_mult_is_capacity_in_all_as_a_multiple_of_the_hot_target() -> None:
    world = World(replace(BARE, cold_mult=3.0), load=lambda t: 180.0, cost=90).run(12_000)
    # By then the mean of an hour is near 180: 3 x 180 / 0.9 = 600, of which a tenth may be missing.
    assert (world.count(State.IDLE), world.count(State.STOPPED), len(world.instances)) == (2, 4, 6)


def test_min_cold_load_of_300_with_100_active_keeps_200_inactive() -> None:
    world = World(replace(BARE, min_cold_load=300.0), load=lambda t: 90.0, cost=30).run(800)
    assert (world.count(State.IDLE), world.count(State.STOPPED), len(world.instances)) == (1, 2, 3)


def test_cold_workers_are_kept_even_at_no_load() -> None:
    world = World(replace(BARE, cold_workers=3)).run(300)
    assert world.count(State.STOPPED) == 3
    commands = len(world.commands)
    world.run(1000)
    assert (world.count(State.STOPPED), len(world.commands)) == (3, commands)


def test_cold_workers_count_those_that_are_ready() -> None:
    world = World(replace(BARE, cold_workers=3, min_load=90.0)).run(300)
    assert (world.count(State.IDLE), world.count(State.STOPPED)) == (1, 2)


def test_max_workers_is_never_passed_in_any_state_at_any_moment() -> None:
    world = World(replace(BARE, cold_mult=3.0, max_workers=5), load=lambda t: 800.0 if t < 150 else 150.0, cost=400)
    world.late_s = lambda instance: 1e9 if instance.worker_id % 3 == 0 else 0.0  # some never load, and are replaced
    world.run(1500)
    assert max(len(moment.states) for moment in world.history) == 5
    assert len(world.times(Command.DESTROY)) > 0
    assert len(world.times(Command.RENT)) > 5


@pytest.mark.long
def test_a_lowered_max_workers_shrinks_the_fleet_without_cutting_a_request_off() -> None:
    world = World(replace(BARE, max_workers=8), load=lambda t: 1000.0).run(300)
    assert len(world.fleet.workers) == 8
    world.configure(max_workers=3)
    world.run(600)
    sizes = [len(moment.states) for moment in world.history[300:]]
    assert sizes == sorted(sizes, reverse=True)
    assert (len(world.fleet.workers), world.cut) == (3, [])


def test_a_worker_above_max_queue_time_gets_no_request_and_the_oldest_is_served_first() -> None:
    scaling = replace(BARE, min_load=1.0, max_workers=1, max_queue_time=5.0)
    world = World(scaling, machines=Machines(lanes=1)).run(60)
    clients = []
    for number in range(9):
        world.run(60 + number / 10)
        clients.append(world.request(cost=100))
        assert world.fleet.ledger.outstanding() <= 5.0 * 100 + 100
    assert [bool(c.workers) for c in clients] == [True] * 6 + [False] * 3
    world.run(80)
    assert sorted(clients, key=lambda c: c.answered_at) == clients
    assert world.unanswered() == 0


@pytest.mark.parametrize(("target_queue_time", "grows"), [(10.0, True), (80_000.0, False)])
def test_a_queue_above_target_queue_time_adds_capacity_even_at_exactly_the_target(
    target_queue_time: float, grows: bool
) -> None:
    scaling = replace(BARE, target_queue_time=target_queue_time, max_queue_time=80_000.0)
    world = World(replace(scaling, min_load=90.0), load=lambda t: 90.0 if t > 60 else 0.0, cost=10).run(200)
    assert (world.count(State.IDLE), len(world.fleet.workers)) == (1, 1)
    world.speed = 0.8  # slower than it says, so a queue builds up at the same load
    world.run(500)
    assert (max(moment.number(State.IDLE) for moment in world.history) > 1) is grows


@pytest.mark.parametrize(
    ("offered", "cost", "seeds"),
    [(450, 200, ()), long(900, 200, (3,)), long(450, 800, (1, 2, 3))],
)
def test_long_requests_side_by_side_are_no_queue(offered: float, cost: float, seeds: tuple[int, ...]) -> None:
    # 8 at once, each 16 or 64 s long: many are outstanding at each worker, and none of them waits.
    machines = Machines(lanes=8)
    service_s = cost * machines.lanes / machines.perf
    waits: list[float] = []
    for seed in seeds or (0,):
        world = World(BARE, load=lambda t: offered, cost=cost, machines=machines, poisson=bool(seeds), seed=seed)
        settled = world.run(1800).history[600:]
        mean = sum(moment.number(State.IDLE, *COMING) for moment in settled) / len(settled)
        assert mean <= 1.35 * offered / 0.9 / machines.perf
        asked = [c for c in world.clients if 600 < c.asked_at - START_AT < 1600]
        waits += [c.answered_at - c.asked_at - service_s for c in asked]
    # Where a worker begins 7 requests a minute, chance alone fills one: a third of a request is no queue.
    assert sorted(waits)[int(0.99 * len(waits))] <= max(BARE.target_queue_time, service_s / 3)


def test_after_the_inactivity_timeout_nothing_is_left_if_nothing_is_to_be_kept() -> None:
    world = World(replace(BARE, inactivity_timeout=200.0), load=lambda t: 300.0 if t < 100 else 0.0).run(298)
    last_end_t = max(c.answered_at for c in world.clients) - START_AT
    assert 100 < last_end_t < 200
    world.run(last_end_t + 198)
    assert all(moment.number(State.IDLE) for moment in world.history if moment.t > 60)
    world.run(last_end_t + 203)  # its worker tells of it within a second, and a tick later it is decided
    assert not any(w.goal is Goal.HOT for w in world.fleet.workers.values())
    world.run(last_end_t + 230)
    assert (world.fleet.workers, world.instances, world.unanswered()) == ({}, {}, 0)


def test_after_the_inactivity_timeout_the_cold_workers_are_left() -> None:
    scaling = replace(BARE, inactivity_timeout=200.0, cold_workers=2)
    world = World(scaling, load=lambda t: 300.0 if t < 100 else 0.0).run(400)
    assert (world.count(State.STOPPED), len(world.fleet.workers)) == (2, 2)


@pytest.mark.parametrize(("timeout_s", "stays_s"), [(None, TUNING.keep_alive_starts * Estimates().start_s), (0.0, 0.0)])
def test_without_an_inactivity_timeout_the_load_alone_decides_about_zero(
    timeout_s: float | None, stays_s: float
) -> None:
    world = World(replace(BARE, inactivity_timeout=timeout_s), load=lambda t: 300.0 if t < 100 else 0.0)
    world.run(95 + stays_s)
    assert world.count(State.IDLE) > 0
    world.run(250 + stays_s)
    assert world.count(State.IDLE) == 0


def test_below_zero_the_inactivity_timeout_means_never_zero() -> None:
    world = World(replace(BARE, inactivity_timeout=-1.0), load=lambda t: 300.0 if t < 100 else 0.0).run(1000)
    assert world.count(State.IDLE) == 1


def test_a_suspended_endpoint_keeps_its_workers_and_lets_those_on_their_way_arrive() -> None:
    world = World(replace(BARE, min_load=180.0), load=lambda t: 400.0 if 100 < t < 200 else 0.0).run(20)
    world.configure(EndpointState.SUSPENDED)
    commands = len(world.commands)
    loading = len(world.fleet.workers)
    world.run(500)
    assert loading > 0
    assert (world.count(State.IDLE), len(world.commands)) == (loading, commands)


def test_a_stopped_endpoint_makes_every_worker_inactive_after_its_requests() -> None:
    world = World(BARE, load=lambda t: 300.0 if t < 200 else 0.0).run(200)
    world.configure(EndpointState.STOPPED)
    workers = set(world.fleet.workers)
    world.run(300)  # the need of before is held for 90 s
    assert world.count(State.STOPPED) == len(workers) == len(world.fleet.workers)
    assert (world.cut, world.unanswered()) == ([], 0)
    world.configure(EndpointState.ACTIVE, min_load=90.0)
    world.run(320)
    assert world.count(State.IDLE) == 1


def test_max_usd_h_is_never_passed() -> None:
    world = World(replace(BARE, cold_mult=3.0, max_usd_h=4.5), load=lambda t: 1000.0, cost=2000).run(300)
    assert 4.0 <= max(moment.usd_h for moment in world.history) <= 4.5


def test_a_lowered_max_usd_h_holds_within_one_drain() -> None:
    world = World(replace(BARE, max_usd_h=4.5), load=lambda t: 1000.0, cost=400).run(150)
    assert world.history[-1].usd_h == 4.0
    world.configure(max_usd_h=1.7)
    world.run(310)  # three finish what they have, and are stopped
    assert max(moment.usd_h for moment in world.history if moment.t > 250) <= 1.7
    assert world.history[-1].number(State.IDLE) == 1


@cache  # for the largest is looked at by two tests
def busy_world(slo_mode: str, load: float) -> World:
    """Random arrivals that an endpoint with the mode's own defaults serves, on machines of 4 slots."""
    scaling = replace(defaults(slo_mode), min_load=0.0, max_workers=80, target_queue_time=4.0)
    return World(scaling, load=lambda t: load, poisson=True, seed=7).run(1500)


@pytest.mark.parametrize("load", [300.0, long(3000.0)])
def test_waits_stay_within_target_queue_time(load: float) -> None:
    for world in (busy_world("auto", load), busy_world("fixed", load)):
        settled = [c for c in world.clients if c.asked_at > START_AT + 600 and c.began_at]
        assert sum(c.began_at - c.asked_at > 4.0 for c in settled) <= 0.01 * len(settled)


@pytest.mark.long
def test_auto_costs_hardly_more_than_fixed_ratios_where_there_is_much_to_do() -> None:
    spent = {
        (mode, load): (world := busy_world(mode, load)).fleet.spent_usd(world.now)
        for mode in ("auto", "fixed")
        for load in (300.0, 3000.0)
    }
    more = {load: spent["auto", load] / spent["fixed", load] - 1 for load in (300.0, 3000.0)}
    assert more[3000.0] < min(0.01, more[300.0] / 2)


@pytest.mark.long
def test_auto_takes_a_smaller_share_of_headroom_for_more_load() -> None:
    shares = [busy_world("auto", load).history[-1].need / load for load in (100.0, 300.0, 3000.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 1.08


def test_in_auto_mode_target_util_is_the_highest_use_and_cold_mult_the_largest_reserve() -> None:
    world = World(replace(BARE, slo_mode="auto", target_util=0.5, cold_mult=1.0), load=lambda t: 400.0).run(600)
    assert world.history[-1].need >= 800.0
    assert world.count(State.STOPPED) == 0
