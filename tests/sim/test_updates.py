"""Rolling updates in virtual time: they end, nothing is cut off, and the rest can do the work."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.domain.endpoint import EndpointState, Scaling, WorkergroupId
from posthouse.domain.lifecycle import Command, State
from posthouse.fleet.events import UpdateAsked
from tests.sim.world import Machines, SimInstance, World

BARE = Scaling(min_load=0.0, target_util=0.9, cold_mult=0.0, cold_workers=0, max_workers=20)
ONE = Scaling(min_load=1.0, target_util=0.9, cold_mult=0.0, cold_workers=1, max_workers=1)
GROUP = WorkergroupId(1)
AT = 150.0
"""When an update is asked for: what is needed is there by then, and what is not rests after as long again."""


def busy_world(scaling: Scaling = BARE, **machines: float) -> World:
    """Four workers that serve, with the load for them."""
    return World(scaling, load=lambda t: 320.0, machines=Machines(**machines))  # type: ignore[arg-type]


def versions(world: World) -> list[int]:
    return sorted(instance.version for instance in world.instances.values())


def done(world: World) -> bool:
    return not any(w.outdated_at for w in world.fleet.workers.values())


def assert_served(world: World) -> None:
    """Nobody was cut off, all but the latest have their answer, and none had to ask a second worker."""
    assert world.cut == []
    assert all(c.answered_at for c in world.clients if c.asked_at < world.now - 60)
    assert all(len(set(c.workers)) <= 1 for c in world.clients)


def test_an_update_reaches_every_worker_while_the_rest_can_do_the_work() -> None:
    world = busy_world(replace(BARE, cold_mult=1.5)).run(2 * AT)
    before = set(world.instances)
    assert (world.count(State.IDLE), world.count(State.STOPPED)) == (4, 2)
    world.update()
    world.run(2 * AT + 600)
    assert done(world)
    assert set(versions(world)) == {1}
    assert set(world.instances) <= before  # workers kept their disks, and nobody new was needed
    assert all(moment.ready * 100 >= moment.need for moment in world.history if moment.t > 2 * AT)
    assert_served(world)


def test_an_update_of_an_endpoint_that_nobody_asks_ends_and_all_rest_again() -> None:
    load = [300.0]
    scaling = replace(BARE, min_cold_load=300.0, inactivity_timeout=0.0)
    world = World(scaling, load=lambda t: load[0]).run(AT)
    load[0] = 0.0
    world.run(world.t + 200)
    assert world.count(State.STOPPED) == len(world.fleet.workers) > 0
    world.update()
    world.run(world.t + 700)
    assert done(world)
    assert set(versions(world)) == {1}
    assert world.count(State.IDLE) == 0


def test_workers_that_rest_are_updated_first_and_rest_again() -> None:
    world = busy_world(replace(BARE, min_cold_load=700.0)).run(2 * AT)
    resting = {w.id for w in world.fleet.workers.values() if w.state is State.STOPPED}
    assert len(resting) == 3
    world.update()
    world.run(2 * AT + 600)
    updated = [worker_id for _, worker_id, command in world.commands if command is Command.UPDATE]
    assert set(updated[:3]) == resting
    assert world.count(State.IDLE) == 4
    assert world.count(State.STOPPED) >= 2  # those that are kept
    assert set(versions(world)) == {1}


def test_a_long_request_is_finished_before_its_worker_is_updated() -> None:
    world = busy_world().run(AT)
    long = world.request(cost=10_000)  # 400 s
    world.update()
    world.run(AT + 300)
    assert not done(world)
    world.run(AT + 900)
    assert done(world)
    assert len(long.workers) == 1
    assert long.answered_at - long.asked_at >= 400
    assert_served(world)


@pytest.mark.parametrize(
    ("scaling", "available"),
    [
        (ONE, 1000),
        (replace(ONE, max_workers=5, max_usd_h=1.5), 1000),
        (replace(ONE, max_workers=5), 1),
    ],
    ids=["max_workers", "money", "offers"],
)
def test_where_nobody_can_step_in_the_update_goes_on_all_the_same(scaling: Scaling, available: int) -> None:
    world = World(scaling, load=lambda t: 50.0, machines=Machines(available=available)).run(AT)
    assert len(world.instances) == 1
    world.update()
    world.run(AT + 120)
    assert done(world)
    assert versions(world) == [1]
    assert len(world.times(Command.UPDATE)) == len(world.times(Command.RENT)) == 1
    assert_served(world)


def test_help_that_can_be_had_is_there_first_and_leaves_when_it_is_over() -> None:
    world = World(replace(ONE, max_workers=2), load=lambda t: 50.0 if t > 60 else 0.0).run(AT)
    assert len(world.instances) == 1
    world.update()
    world.run(AT + 1000)
    assert len(world.times(Command.RENT)) == 2
    assert done(world)
    assert all(moment.ready >= 1 for moment in world.history if moment.t > AT)
    assert max(len(moment.states) for moment in world.history) == 2
    assert len(world.instances) == 1
    assert set(versions(world)) == {1}
    assert_served(world)


def test_a_cancelled_update_stops_where_it_is() -> None:
    world = busy_world().run(AT)
    world.update()
    world.run(AT + 12)
    begun = len(world.times(Command.UPDATE))
    assert begun >= 1
    world.tell(UpdateAsked(GROUP, wanted=False))
    world.run(AT + 300)
    assert len(world.times(Command.UPDATE)) == begun
    assert versions(world)[:2] == [0, 0]
    assert world.count(State.IDLE) == 4
    assert done(world)
    assert_served(world)


def test_a_worker_that_drains_for_its_update_serves_again_when_that_is_cancelled() -> None:
    world = World(ONE).run(AT)
    long = world.request(cost=2000)  # 80 s
    world.update()
    world.run(AT + 10)
    [worker] = world.fleet.workers.values()
    assert worker.status() == "update_ready"
    world.tell(UpdateAsked(GROUP, wanted=False))
    next_one = world.request(cost=10)
    world.run(AT + 30)
    assert next_one.answered_at
    assert not long.answered_at
    assert world.times(Command.UPDATE) == []


def test_a_version_that_does_not_start_never_ends_what_the_work_needs() -> None:
    world = busy_world(replace(BARE, min_cold_load=600.0)).run(AT)
    world.update(broken=True)
    world.run(AT + 600)
    assert all(moment.ready * 100 >= moment.need for moment in world.history if moment.t > AT)
    assert set(versions(world)) == {0}
    assert done(world)  # it was rolled back
    assert len(world.times(Command.UPDATE)) < 10
    world.update()
    world.run(AT + 1500)
    assert done(world)
    assert set(versions(world)) == {2}
    assert_served(world)


def test_while_the_endpoint_is_suspended_no_update_moves() -> None:
    world = busy_world(replace(BARE, max_workers=4)).run(AT)
    for _ in range(4):
        world.request(cost=2000)  # 80 s
    world.update()
    world.run(AT + 5)
    world.configure(EndpointState.SUSPENDED)
    begun = len(world.times(Command.UPDATE))
    world.run(AT + 120)
    assert len(world.times(Command.UPDATE)) == begun
    assert world.history[-1].ready == 4
    world.configure(EndpointState.ACTIVE)
    world.run(AT + 900)
    assert done(world)
    assert set(versions(world)) == {1}


def test_a_stopped_endpoint_is_updated_when_it_is_active_again() -> None:
    world = busy_world().run(AT)
    world.update()
    world.run(AT + 3)
    world.configure(EndpointState.STOPPED)
    world.run(AT + 200)
    assert world.count(State.STOPPED) == len(world.instances)
    begun = len(world.times(Command.UPDATE))
    assert begun < len(world.instances)
    world.configure(EndpointState.ACTIVE)
    world.run(AT + 900)
    assert done(world)
    assert set(versions(world)) == {1}
    assert world.count(State.IDLE) == 4
    assert world.cut == []


def test_an_update_survives_the_death_of_the_server() -> None:
    world = busy_world().run(AT)
    world.update()
    for t in (2.0, 20.0, 21.0, 60.0):
        world.run(AT + t)
        world.restart(stabilization_s=5.0, away_s=3.0)
    world.run(AT + 900)
    assert done(world)
    assert set(versions(world)) == {1}
    assert world.count(State.IDLE) == 4
    assert world.cut == []


def test_an_update_whose_answer_is_lost_is_given_again() -> None:
    world = busy_world().run(AT)
    world.lose_answers = True
    world.update()
    world.run(AT + 60)
    assert not done(world)
    world.lose_answers = False
    world.run(AT + 900)
    assert done(world)
    assert set(versions(world)) == {1}
    assert_served(world)


def test_workers_that_cannot_be_updated_now_hold_up_nobody_and_serve_on() -> None:
    world = busy_world(replace(BARE, min_cold_load=500.0)).run(AT)

    def no_room(instance: SimInstance) -> str:
        return "no free slot" if instance.worker_id == 1 else ""

    world.refuse_update = no_room
    world.update()
    world.run(AT + 900)
    assert world.history[-1].due == 1
    assert versions(world) == [0, 1, 1, 1, 1, 1]
    world.refuse_update = lambda instance: ""
    world.run(AT + 2000)
    assert done(world)
    assert_served(world)


def test_an_update_asked_for_again_while_one_runs_ends_at_the_latest_version() -> None:
    world = busy_world().run(AT)
    for t in (0.0, 5.0, 11.1, 40.0):
        world.run(AT + t)
        world.update()
    world.run(AT + 900)
    assert done(world)
    assert set(versions(world)) == {4}
    assert_served(world)


def test_workers_that_load_for_the_first_time_begin_anew_with_the_new_version() -> None:
    world = World(replace(ONE, max_workers=3), machines=Machines(load_s=500.0)).run(60)
    assert world.count(State.MODEL_LOADING) == 1
    world.update()
    world.run(600)
    assert versions(world) == [1]
    assert world.count(State.IDLE) == 1
    assert len(world.times(Command.RENT)) == 1


@settings(max_examples=4, deadline=None)
@given(
    st.integers(0, 1000),
    st.lists(
        st.tuples(st.floats(1, 120), st.sampled_from(["update", "cancel", "restart", "long", "load"])), max_size=8
    ),
)
@pytest.mark.long
def test_whatever_comes_between_an_update_cuts_nothing_and_ends(seed: int, happenings: list[tuple[float, str]]) -> None:
    scaling = replace(BARE, min_cold_load=500.0, max_workers=6)
    load = [300.0]
    world = World(scaling, load=lambda t: load[0], poisson=True, seed=seed).run(200)
    world.update()
    for span_s, what in happenings:
        world.run(world.t + span_s)
        if what == "update":
            world.update()
        elif what == "cancel":
            world.tell(UpdateAsked(GROUP, wanted=False))
        elif what == "restart":
            world.restart(stabilization_s=5.0, away_s=1.0)
        elif what == "long":
            world.request(cost=5000)
        else:
            load[0] = 0.0 if load[0] else 300.0
    world.run(world.t + 10)
    world.update()
    world.run(world.t + 1500)
    assert done(world)
    assert set(versions(world)) <= {world.version}
    assert max(len(moment.states) for moment in world.history) <= 6
    assert world.cut == []
