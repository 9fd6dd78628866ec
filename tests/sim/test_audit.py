"""Each rule of the auditor can be broken, and is seen to be."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from posthouse.domain.decision import Decision, Memory, Rental, Snapshot
from posthouse.domain.endpoint import EndpointState, Scaling
from posthouse.domain.lifecycle import Command, Goal, State
from posthouse.domain.worker import Worker
from posthouse.fleet.controller import Policy
from posthouse.fleet.requests import Requests
from posthouse.policy.decide import decide
from posthouse.sim.audit import REST_S, BrokenRule
from posthouse.sim.market import Duration, Hardware
from posthouse.sim.traffic import Arrival
from posthouse.sim.world import World

SCALING = Scaling(min_load=0.0, cold_mult=1.5, cold_workers=1, max_workers=4)
HARDWARE = Hardware(create=Duration(5.0), load=Duration(10.0), start=Duration(5.0), per_host=2)


def arrivals() -> Iterator[Arrival]:
    """300 work per second for five minutes."""
    return ((n / 3, 100.0) for n in range(900))


def world(policy: Policy = decide, scaling: Scaling = SCALING, kind: type[World] = World) -> World:
    return kind(scaling, arrivals(), (HARDWARE,), policy=policy, repeat="posthouse simulate --seed 0")


def broken(world: World, until_t: float = 3000.0) -> str:
    """The rule that was seen to be broken."""
    with pytest.raises(BrokenRule) as caught:
        world.run(until_t)
    text = str(caught.value)
    assert text.endswith("repeat it with: posthouse simulate --seed 0")
    return text.split(": ")[1]


def mutated(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, change: Callable[[Any], Any]) -> None:
    monkeypatch.setattr(owner, name, change(getattr(owner, name)))


def test_a_sound_world_breaks_no_rule() -> None:
    sound = world().run(1000)
    assert (sound.pending, sound.cut) == (0, [])
    assert sound.given[Command.RENT] > 0
    assert sound.audit.usd > 0


def test_work_that_is_not_given_back_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    sick = world()

    def leaking(remove: Any) -> Any:
        def removed(request: Any, *more: Any) -> None:
            worker_id = request.worker_id
            remove(request, *more)
            if worker_id in sick.fleet.ledger.at:
                sick.fleet.ledger.at[worker_id].work += 0.01

        return removed

    mutated(monkeypatch, sick.fleet.ledger, "remove", leaking)
    assert broken(sick) == "outstanding work is that of open requests"


def test_work_below_zero_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    sick = world()

    def negative(assign: Any) -> Any:
        def assigned(request: Any, there: Any, now: float) -> None:
            assign(request, there, now)
            there.work = -1.0

        return assigned

    mutated(monkeypatch, sick.fleet.ledger, "assign", negative)
    assert broken(sick) == "outstanding work is that of open requests"


def test_a_request_that_is_forgotten_while_its_worker_has_it_is_seen() -> None:
    sick = world().run(60)
    request = sick.fleet.ledger.open.get(next(idx for instance in sick.instances.values() for idx in instance.working))
    assert request is not None
    sick.fleet.ledger.remove(request)
    assert broken(sick) in ("every request has one place", "outstanding work is that of open requests")


def test_a_request_to_a_worker_that_is_not_wanted_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    sick = world().run(60)
    assert sick.fleet.ledger.at
    monkeypatch.setattr(sick.fleet.requests, "membership_changed", lambda: None)  # nobody leaves the bench any more
    for worker in list(sick.fleet.workers.values()):
        sick.fleet.roster.workers[worker.id] = replace(worker, goal=Goal.COLD)
    assert broken(sick) == "only ready and wanted workers get requests"


def test_a_worker_beyond_max_workers_is_seen() -> None:
    def greedy(s: Snapshot, memory: Memory) -> Decision:
        decision = decide(s, memory)
        return replace(decision, rentals=(*decision.rentals, Rental(s.offers[0], Goal.HOT)))

    assert broken(world(greedy)) == "never above max_workers"


def test_a_second_instance_for_one_intent_is_seen() -> None:
    class Doubling(World):
        def _rent(self, worker: Worker) -> tuple[str, bool]:
            super()._rent(worker)
            return super()._rent(worker)

    assert broken(world(kind=Doubling)) == "one intent, one instance"


def test_money_that_is_not_billed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    sick = world()
    mutated(monkeypatch, sick.fleet, "spent_usd", lambda spent: lambda now: 0.999 * spent(now))
    assert broken(sick) == "money spent is time billed"


def test_a_worker_that_is_stopped_with_requests_on_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Requests, "busy", lambda self, worker_id: False)
    sick = world().run(60)
    sick.configure(EndpointState.STOPPED)
    assert broken(sick) == "a busy worker is not stopped"


def test_a_worker_whose_last_request_is_given_up_in_the_tick_that_stops_it_was_not_busy() -> None:
    sound = world(scaling=replace(SCALING, min_load=50.0))
    sound.run(400)
    sound.lose_ends = True
    sound.request(0.1)  # over before any report tells of it
    sound.configure(EndpointState.STOPPED)
    sound.run(600)
    assert sound.fleet.counters.expired > 0
    assert sound.given[Command.STOP] > 0


def test_flapping_at_rest_is_seen() -> None:
    def restless(s: Snapshot, memory: Memory) -> Decision:
        decision = decide(s, memory)
        goal = Goal.HOT if s.now // 60 % 2 else Goal.COLD
        idle = [w.id for w in s.workers if w.state in (State.IDLE, State.STOPPED) and w.id not in s.busy]
        return replace(decision, goals=dict.fromkeys(idle, goal))

    assert broken(world(restless), 300 + REST_S + 3600) == "no flapping at rest"
