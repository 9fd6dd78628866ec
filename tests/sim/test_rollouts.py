"""Canaries and rollbacks in virtual time: a good version, and versions that fail, err or are slow."""

from dataclasses import replace
from itertools import pairwise

import pytest

from posthouse.domain.endpoint import EndpointState, Scaling
from posthouse.domain.lifecycle import Command, State
from posthouse.domain.rollout import Phase, Rollout
from posthouse.fleet.events import UpdateAsked
from posthouse.sim.market import GROUP
from tests.sim.world import Machines, World

RATE, COST = 25.0, 16.0
FLEET = Scaling(min_load=0.0, target_util=0.9, cold_mult=1.25, cold_workers=0, max_workers=12)
"""About five workers that serve 25 requests per second, and one that rests."""
ONE = Scaling(min_load=1.0, target_util=0.9, cold_mult=0.0, cold_workers=1, max_workers=1)
AT = 90.0


def busy(seed: int = 1) -> World:
    return World(FLEET, lambda t: RATE * COST, COST, Machines(), seed, poisson=True).run(AT)


def calm(scaling: Scaling = ONE, load: float = 50.0) -> World:
    """A world with a request every second or so."""
    return World(scaling, lambda t: load).run(AT)


def rollout(world: World) -> Rollout:
    return world.fleet.roster.rollouts[GROUP]


def until(world: World, phase: Phase, within_s: float) -> None:
    began = world.t
    while rollout(world).phase is not phase:
        assert world.t < began + within_s, (rollout(world), [str(w.state) for w in world.fleet.workers.values()])
        world.run(world.t + 1)


def versions(world: World) -> set[int]:
    return {instance.version for instance in world.instances.values()}


def retried(world: World) -> int:
    """Requests that had to ask a second worker."""
    return sum(len(client.workers) > 1 for client in world.clients)


def test_a_good_update_under_load_fails_no_request_and_its_canary_is_given_few() -> None:
    world = busy()
    world.update()
    canaries: set[int] = set()
    asked: list[int] = []
    while rollout(world).phase is not Phase.DONE:
        assert world.t < AT + 600
        if (found := rollout(world)).phase is Phase.CANARY:
            canaries.add(found.canary)
            asked = [
                worker for client in world.clients if client.asked_at > world.now - 20 for worker in client.workers
            ]
        world.run(world.t + 1)
    world.run(world.t + 10)
    assert versions(world) == {1}
    assert (world.failed, world.cut, retried(world)) == (0, [], 0)
    assert all(c.answered_at for c in world.clients if c.asked_at < world.now - 5)
    assert len(canaries - {0}) == 1
    assert 0 < asked.count(max(canaries)) <= 0.12 * len(asked)


def test_a_version_that_errs_is_rolled_back_before_one_request_in_a_hundred_failed() -> None:
    world = busy()
    world.update(errors=0.3)
    until(world, Phase.ROLLED_BACK, 120)
    world.run(AT + 120)
    assert versions(world) == {0}
    assert "requests failed; of the old version 0 of" in rollout(world).reason
    assert 3 <= world.failed < 0.01 * sum(c.asked_at > world.now - 120 for c in world.clients)
    assert world.cut == []


def test_a_version_that_is_slow_is_rolled_back() -> None:
    world = busy()
    world.update(speed=0.5)
    until(world, Phase.ROLLED_BACK, 120)
    world.run(AT + 120)
    assert versions(world) == {0}
    assert rollout(world).reason.endswith("does 50 work/s; the old version 100")
    assert (world.cut, retried(world)) == ([], 0)


def test_a_version_that_does_not_start_is_rolled_back_after_three_tries_with_pauses() -> None:
    world = calm(replace(FLEET, min_load=300.0))
    ready = world.count(State.IDLE)
    world.update(broken=True)
    until(world, Phase.ROLLED_BACK, 300)
    world.run(world.t + 60)
    assert versions(world) == {0}
    assert rollout(world).reason.startswith("3 workers failed")
    assert min(moment.ready for moment in world.history if moment.t > AT) == ready
    assert (world.cut, retried(world)) == ([], 0)
    assert all(after - before >= 5 for before, after in pairwise(world.times(Command.UPDATE)[:3]))


@pytest.mark.parametrize("bad", [{"broken": True}, {"errors": 1.0}, {"speed": 0.5}], ids=str)
def test_the_only_worker_is_updated_where_it_is_and_comes_back(bad: dict[str, float]) -> None:
    world = calm()
    world.update(**bad)  # type: ignore[arg-type]
    until(world, Phase.ROLLED_BACK, 120)
    world.run(world.t + 90)
    assert versions(world) == {0}
    assert world.count(State.IDLE) == 1
    assert max(len(moment.states) for moment in world.history) == 1
    assert all(c.answered_at for c in world.clients if c.asked_at < world.now - 60)


def test_where_all_are_needed_a_new_worker_is_the_canary() -> None:
    world = calm(replace(ONE, max_workers=2))
    [old] = world.instances
    world.update(errors=1.0)
    until(world, Phase.ROLLED_BACK, 300)
    assert world.instances[old].version == 0
    assert len(world.times(Command.RENT)) == 2
    assert min(moment.ready for moment in world.history if moment.t > AT) >= 1


def test_without_a_worker_the_first_that_is_needed_is_the_canary() -> None:
    loads = [0.0]
    world = World(replace(ONE, min_load=0.0, cold_workers=0, inactivity_timeout=10.0), lambda t: loads[0])
    world.request()
    world.run(200)
    assert rollout(world).stable == "0"
    assert not world.instances
    world.update(broken=True)
    client = world.request()
    world.run(world.t + 300)
    assert rollout(world).phase is Phase.ROLLED_BACK
    assert client.answered_at


def test_a_version_is_tried_again_only_when_asked_for_or_when_it_is_another() -> None:
    world = calm()
    world.update(broken=True)
    until(world, Phase.ROLLED_BACK, 120)
    world.run(world.t + 900)
    tries = len(world.times(Command.UPDATE))
    assert tries == 1
    world.broken.clear()  # what was wrong was not the version
    world.tell(UpdateAsked(GROUP))
    until(world, Phase.DONE, 600)
    assert versions(world) == {1}
    world.update(broken=True)
    until(world, Phase.ROLLED_BACK, 120)
    world.version = 1  # as it was: nothing has to be done
    world.configure()
    until(world, Phase.DONE, 60)
    world.run(world.t + 60)
    assert versions(world) == {1}


@pytest.mark.parametrize("bad", [{"broken": True}, {"errors": 0.3}, {}], ids=str)
def test_a_server_that_dies_again_and_again_ends_where_one_that_lives_does(bad: dict[str, float]) -> None:
    world = calm(replace(FLEET, min_load=200.0), load=300.0)
    world.update(**bad)  # type: ignore[arg-type]
    for t in (0.3, 3.0, 22.0, 25.0, 47.0, 90.0):
        world.run(AT + t)
        world.restart(stabilization_s=5.0, away_s=2.0)
    until(world, Phase.ROLLED_BACK if bad else Phase.DONE, 900)
    world.run(world.t + 120)
    assert versions(world) == {0 if bad else 1}
    assert world.cut == []
    assert all(str(i.version) == world.fleet.workers[i.worker_id].build for i in world.instances.values())


def test_hundreds_of_scale_downs_under_load_kill_no_request() -> None:
    world = World(Scaling(min_load=2500.0, target_util=1.0, cold_mult=1.0, cold_workers=25, max_workers=25)).run(AT)
    while len(world.times(Command.STOP)) < 300:
        while world.count(State.IDLE) < 25:
            world.run(world.t + 1)
        clients = [world.request(cost=200.0) for _ in range(30)]  # 8 s each, at every worker
        world.run(world.t + 1)
        assert all(client.assigned_at for client in clients)
        world.configure(EndpointState.STOPPED)
        while world.count(State.STOPPED) < 25:
            world.run(world.t + 1)
        assert all(client.answered_at and len(client.workers) == 1 for client in clients)
        world.configure(EndpointState.ACTIVE)
    assert world.cut == []
