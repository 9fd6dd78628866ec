"""What must not go wrong, in virtual time."""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from posthouse.domain.endpoint import Scaling
from posthouse.domain.lifecycle import MAX_PROGRESS_FACTOR, STATE_TIMEOUT_S, Command, Goal, Observation, State
from posthouse.domain.worker import WorkerId
from posthouse.fleet.requests import UNSEEN_KEPT_S
from tests.kit.marks import long
from tests.sim.world import ANSWER_S, HEARTBEAT_S, LIST_S, SILENT_S, START_AT, TICK_S, Machines, World

BARE = Scaling(min_load=0.0, target_util=0.9, cold_mult=0.0, cold_workers=0, max_workers=100)
FIRST = WorkerId(1)


def test_the_first_request_ever_is_answered() -> None:
    machines = Machines()
    world = World(BARE, machines=machines).run(100)
    assert world.fleet.workers == {}
    client = world.request()
    world.run(200)
    assert client.workers == [FIRST]
    service_s = client.cost * machines.lanes / machines.perf
    longest_s = machines.create_s + machines.load_s + service_s + TICK_S + ANSWER_S + HEARTBEAT_S + LIST_S
    assert 0 < client.answered_at - client.asked_at <= longest_s


@pytest.mark.parametrize("load_s", [20.0, 120.0, long(300.0)])
def test_slow_starts_do_not_cascade(load_s: float) -> None:
    # While nothing is ready, each tick sees the same lack again; what was rented for it must count.
    world = World(BARE, load=lambda t: 180.0, cost=60, machines=Machines(load_s=load_s)).run(max(200, 5 * load_s))
    most = max(moment.need for moment in world.history)
    assert len(world.times(Command.RENT)) <= math.ceil(most / 100)
    assert world.count(State.IDLE) == 2
    assert world.cut == []


def test_a_step_up_is_met_within_a_start_and_two_ticks() -> None:
    machines = Machines(start_s=20.0)
    scaling = replace(BARE, min_cold_load=1500.0)
    world = World(scaling, load=lambda t: 90.0 if t < 300 else 900.0, cost=20, machines=machines).run(450)
    needed_t = next(moment.t for moment in world.history if moment.need >= 1000)
    met_t = next(moment.t for moment in world.history if moment.number(State.IDLE) >= 9)  # 90 % of it
    assert 300 <= needed_t <= met_t <= needed_t + machines.start_s + 2 * TICK_S + HEARTBEAT_S + ANSWER_S
    assert len(world.times(Command.RENT)) == 15


def test_constant_load_does_not_make_the_fleet_swing() -> None:
    world = World(replace(BARE, cold_mult=2.0), load=lambda t: 500.0).run(700)
    sizes = [sum(s in (State.IDLE, State.STARTING) for s in moment.states) for moment in world.history[300:]]
    steps = [b - a for a, b in pairwise(sizes) if a != b]
    turns = sum((a > 0) != (b > 0) for a, b in pairwise(steps))
    assert turns <= 2
    assert world.history[-1].supply == 600


def test_random_arrivals_are_all_answered_and_the_fleet_follows_the_load() -> None:
    def load(t: float) -> float:
        return 300 + 250 * math.sin(t / 200)

    world = World(replace(BARE, cold_mult=2.0), load=load, poisson=True, seed=7).run(1300)
    waits = sorted(c.answered_at - c.asked_at for c in world.clients if c.answered_at and c.asked_at > world.now - 900)
    assert waits[len(waits) // 2] <= 8.0
    assert waits[int(0.99 * len(waits))] <= 30.0
    assert sum(not c.answered_at for c in world.clients if c.asked_at < world.now - 60) == 0
    ready = [moment.number(State.IDLE) for moment in world.history[400:]]
    assert max(ready) >= 6
    assert min(ready) <= 3
    assert world.cut == []


def test_the_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> World:
        return World(BARE, load=lambda t: 300.0, poisson=True, seed=seed).run(200)

    one, again, other = run(1), run(1), run(2)
    assert one.history == again.history
    assert one.commands == again.commands
    assert [c.asked_at for c in one.clients] != [c.asked_at for c in other.clients]


def test_a_long_request_survives_the_scale_down() -> None:
    world = World(replace(BARE, inactivity_timeout=0.0), load=lambda t: 500.0 if t < 200 else 0.0).run(150)
    longs = [world.request(cost=10_000) for _ in range(3)]  # 400 s each
    world.run(1000)
    assert world.times(Command.STOP)
    assert world.cut == []
    assert all(len(c.workers) == 1 and c.answered_at - c.asked_at >= 400 for c in longs)
    assert world.count(State.IDLE) == 0


def test_a_worker_that_never_loads_is_replaced_after_its_patience() -> None:
    world = World(replace(BARE, min_load=90.0))
    world.late_s = lambda instance: math.inf if instance.worker_id == FIRST else 0.0
    world.run(STATE_TIMEOUT_S[State.MODEL_LOADING])
    assert set(world.fleet.workers) == {FIRST}
    world.run(STATE_TIMEOUT_S[State.MODEL_LOADING] + 120)
    assert FIRST not in world.fleet.workers
    assert FIRST not in {instance.worker_id for instance in world.instances.values()}
    assert world.count(State.IDLE) == 1


def test_a_worker_that_loads_slowly_with_progress_is_waited_for() -> None:
    world = World(replace(BARE, min_load=90.0))
    world.late_s, world.shows_progress = lambda instance: 2 * STATE_TIMEOUT_S[State.MODEL_LOADING], True
    world.run(2 * STATE_TIMEOUT_S[State.MODEL_LOADING] + 60)
    assert (world.count(State.IDLE), world.times(Command.DESTROY)) == (1, [])
    assert set(world.fleet.workers) == {FIRST}


def test_progress_without_end_is_not_waited_for_for_ever() -> None:
    world = World(replace(BARE, min_load=90.0))
    world.late_s = lambda instance: math.inf if instance.worker_id == FIRST else 0.0
    world.shows_progress = True
    world.run(MAX_PROGRESS_FACTOR * STATE_TIMEOUT_S[State.MODEL_LOADING] + 120)
    assert FIRST not in world.fleet.workers
    assert world.count(State.IDLE) == 1


def test_attempts_after_failures_grow_sparse_and_end_with_the_first_success() -> None:
    world = World(replace(BARE, min_load=450.0))
    world.refuse_creation = "no credit"
    world.run(2400)
    tries = world.times(Command.RENT)[1:]
    gaps = [b - a for a, b in pairwise(tries)]
    assert len(tries) <= 15
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 600
    world.refuse_creation = ""
    world.run(2400 + 900)
    assert world.count(State.IDLE) == 5


def test_answers_that_get_lost_create_nothing_twice() -> None:
    world = World(replace(BARE, min_load=450.0))
    world.lose_answers = True
    world.run(300)
    assert len(world.instances) == len(world.times(Command.RENT)) == world.count(State.IDLE) == 5


def test_requests_at_a_dead_worker_are_answered_elsewhere() -> None:
    world = World(replace(BARE, min_load=230.0), load=lambda t: 100.0 if t < 300 else 0.0).run(100)
    instance = world.instances["test-1"]
    there = list(instance.working.values())
    world.kill(instance, Observation.RUNNING)  # its provider has not noticed
    world.run(400)
    assert there
    assert all(c.workers[0] == FIRST != c.workers[-1] for c in there)
    assert world.unanswered() == 0
    assert FIRST not in world.fleet.workers
    assert world.count(State.IDLE) == 3  # 230 / 0.9


def tried_first(world: World, worker_id: WorkerId, since_t: float) -> float:
    """The share of requests since then that went to this worker first."""
    first = [c.workers[0] for c in world.clients if c.asked_at > world.now - world.t + since_t and c.workers]
    assert len(first) > 100
    return first.count(worker_id) / len(first)


def test_a_dead_worker_attracts_no_requests() -> None:
    world = World(replace(BARE, min_load=450.0, max_workers=5), load=lambda t: 300.0, cost=40).run(100)
    world.kill(world.instances["test-1"], Observation.RUNNING)
    world.run(100 + SILENT_S - 5)
    assert world.fleet.workers[FIRST].state is State.IDLE  # nobody knows but its clients
    assert tried_first(world, FIRST, 100) <= 0.03
    assert all(c.answered_at for c in world.clients if c.asked_at < world.now - 20)


def test_a_worker_that_reports_on_but_refuses_connections_attracts_no_requests_and_is_taken_back() -> None:
    world = World(replace(BARE, min_load=450.0, max_workers=5), load=lambda t: 300.0, cost=40).run(100)
    instance = world.instances["test-1"]
    instance.deaf = True
    world.run(155)
    assert world.fleet.workers[FIRST].state is State.IDLE
    assert tried_first(world, FIRST, 100) <= 0.08  # of five, and mostly at first
    instance.deaf = False
    world.run(400)
    assert tried_first(world, FIRST, 300) >= 0.1


def test_a_worker_that_reports_on_but_refuses_connections_for_long_is_replaced() -> None:
    world = World(replace(BARE, min_load=450.0, max_workers=5), load=lambda t: 300.0, cost=40).run(100)
    world.instances["test-1"].deaf = True
    world.run(500)
    assert FIRST not in world.fleet.workers
    assert world.count(State.IDLE) == 5
    assert all(c.answered_at for c in world.clients if c.asked_at < world.now - 20)


def test_a_request_whose_only_worker_is_dead_is_not_sent_there_more_than_once_a_second() -> None:
    world = World(replace(BARE, min_load=90.0, max_workers=1)).run(100)
    world.instances["test-1"].deaf = True
    client = world.request()
    world.run(400)
    assert world.count(State.IDLE) == 1
    assert 2 <= len(client.workers) <= 12  # twice as long between two tries each time, up to a minute
    world.instances["test-1"].deaf = False
    world.run(480)
    assert client.answered_at


@pytest.mark.long
def test_a_broken_client_takes_no_worker_away_from_the_others() -> None:
    def waits(broken_each_s: float) -> list[float]:
        world = World(replace(BARE, min_load=360.0, max_workers=4), load=lambda t: 200.0, cost=40).run(100)
        for number in range(int(30 * broken_each_s)):
            world.run(100 + number / broken_each_s)
            world.request(cost=40, broken=True)
        world.run(150)
        sound = [c for c in world.clients if not c.broken and START_AT + 100 < c.asked_at < START_AT + 130]
        assert world.count(State.IDLE) == 4
        assert min(Counter(c.workers[-1] for c in sound if c.workers).values()) > len(sound) / 8
        return sorted(c.answered_at - c.asked_at for c in sound)

    undisturbed, disturbed = waits(0.1), waits(8.0)
    assert disturbed[int(0.9 * len(disturbed))] <= undisturbed[int(0.9 * len(undisturbed))] + 0.5
    assert disturbed[-1] <= undisturbed[-1] + 1.0


def test_a_silent_worker_is_replaced_even_if_its_provider_says_that_it_runs() -> None:
    world = World(replace(BARE, min_load=90.0)).run(100)
    world.kill(world.instances["test-1"], Observation.RUNNING)
    world.run(100 + SILENT_S + 60)
    assert [w.id for w in world.fleet.workers.values() if w.state is State.IDLE] == [2]
    world.run(300)
    assert set(world.fleet.workers) == {2}


def test_ends_that_get_lost_leave_no_phantom_work() -> None:
    world = World(BARE, load=lambda t: 300.0 if t < 200 else 0.0)
    world.lose_ends = True
    world.run(200)
    served = sum(c.answered_at > 0 for c in world.clients)
    assert served > 400
    assert world.fleet.ledger.outstanding() <= (UNSEEN_KEPT_S + 10) * 300
    assert world.fleet.counters.ended == 0
    world.run(300)
    assert (len(world.fleet.ledger), world.unanswered()) == (0, 0)


def test_the_spend_is_the_bill() -> None:
    machines = Machines()
    world = World(replace(BARE, min_load=90.0), machines=machines).run(900)
    worker = world.fleet.workers[FIRST]
    loading_s = worker.loaded_at - worker.created_at
    assert machines.create_s + machines.load_s <= loading_s <= machines.create_s + machines.load_s + 3
    by_hand_usd = (0.5 * loading_s + 1.0 * (900 - loading_s)) / 3600
    assert world.fleet.spent_usd(world.now) == pytest.approx(by_hand_usd, rel=1e-6)


def test_a_restart_adopts_every_worker_and_makes_none() -> None:
    world = World(replace(BARE, min_cold_load=600.0), load=lambda t: 270.0 if t < 500 else 0.0, cost=30).run(300)
    before = set(world.fleet.workers)
    rents = len(world.times(Command.RENT))
    assert world.count(State.IDLE) == world.count(State.STOPPED) == 3
    world.restart(stabilization_s=60, away_s=5)
    world.run(400)
    assert set(world.fleet.workers) == before
    assert len(world.times(Command.RENT)) == rents
    assert [t for t in world.times(Command.DESTROY) if t > 300] == []
    world.run(600)
    assert (world.unanswered(), world.cut) == (0, [])


def test_a_restart_keeps_the_reserve_though_what_was_asked_for_before_is_not_known() -> None:
    world = World(replace(BARE, cold_mult=3.0), load=lambda t: 270.0, cost=90).run(600)
    for at in (600, 1200):  # the first so that the load is taken to have lasted
        world.restart(stabilization_s=60)
        world.run(at + 600)
    assert (world.count(State.IDLE), world.count(State.STOPPED)) == (3, 6)
    assert [t for t in world.times(Command.DESTROY) if t > 600] == []
    assert [t for t in world.times(Command.RENT) if t > 1200] == []


def test_a_restart_holds_the_scale_down_for_its_calm_and_no_longer() -> None:
    scaling = replace(BARE, cold_workers=3, inactivity_timeout=0.0)
    world = World(scaling, load=lambda t: 270.0 if t < 200 else 0.0).run(210)
    assert world.count(State.IDLE) >= 3
    world.restart(stabilization_s=120)
    world.run(329)
    assert [t for t in world.times(Command.STOP) if t > 210] == []
    assert world.count(State.IDLE) >= 3
    world.run(345)
    assert world.count(State.IDLE) == 0


def test_a_restart_between_an_intent_and_its_answer_loses_no_worker_and_makes_none_twice() -> None:
    world = World(replace(BARE, min_load=450.0))
    world.run(ANSWER_S / 2)
    assert len(world.times(Command.RENT)) == 1  # on its way; the others follow when its performance is known
    world.restart(away_s=0.0)
    world.run(300)
    assert FIRST in world.fleet.workers
    assert len(world.instances) == world.count(State.IDLE) == len(world.times(Command.RENT)) == 5


def test_a_long_absence_of_the_server_costs_no_worker() -> None:
    world = World(replace(BARE, min_load=450.0)).run(20)
    assert world.count(State.LOADING, State.MODEL_LOADING, State.CREATING) > 0
    before = set(world.fleet.workers)
    world.restart(away_s=7200.0)
    world.run(7400)
    assert before <= set(world.fleet.workers)
    assert world.count(State.IDLE) == 5
    assert world.times(Command.DESTROY) == []


def test_the_dearest_worker_rests_first_and_the_others_go_on() -> None:
    world = World(BARE, load=lambda t: 450.0 if t < 300 else 90.0, cost=30).run(300)
    assert world.count(State.IDLE) == 5
    dear = world.fleet.workers[WorkerId(3)]
    world.fleet.roster.workers[dear.id] = replace(dear, price=replace(dear.price, ready_usd_h=9.0))
    world.audit.adopt(world.fleet, world.now)
    world.run(300 + 3 * 30 + 90)  # a need is held for three starts, and the mean of a minute falls slowly
    cold = [w.id for w in world.fleet.workers.values() if w.goal is Goal.COLD]
    assert dear.id in cold
    assert world.cut == []
