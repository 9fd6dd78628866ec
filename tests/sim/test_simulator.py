"""The world itself: the same run twice, the paces of the server, clients that leave, machines that fail."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from math import sin
from random import Random

import pytest

from posthouse.config import Engine, Server
from posthouse.domain.endpoint import Scaling
from posthouse.domain.lifecycle import Command, State
from posthouse.providers.process import ProcessProvider
from posthouse.sim import world as sim
from posthouse.sim.client import Client, ClientBehaviour, ClientKind
from posthouse.sim.market import Duration, Hardware
from posthouse.sim.traffic import Arrival, Costs, poisson
from posthouse.sim.world import Pace, World

SCALING = Scaling(min_load=0.0, cold_mult=1.5, cold_workers=1, max_workers=8)
HARDWARE = Hardware(create=Duration(20.0, 60.0), load=Duration(20.0), start=Duration(5.0, 9.0), per_host=2)
FAULTY = replace(
    HARDWARE,
    refused=0.2,
    broken=0.1,
    slow=0.2,
    crashes_h=2.0,
    preempted_h=1.0,
    offered_h=0.5,
    away_h=0.05,
    available=40,
)


def arrivals(span_s: float = 400.0, seed: int = 5) -> Iterator[Arrival]:
    return poisson(lambda t: 120 + 100 * sin(t / 200), 220.0, Costs(60.0, 0.8), span_s, Random(seed))


@cache
def logged(kind: type[World] = World, hardware: Hardware = FAULTY, **others: object) -> list[str]:
    lines: list[str] = []
    kind(SCALING, arrivals(), (hardware,), 3, log=lines.append, **others).run(600)  # type: ignore[arg-type]
    return lines


def test_the_paces_are_those_of_the_server() -> None:
    assert Pace().tick_s == Engine().tick_s
    assert Pace().list_s == ProcessProvider.Settings().poll_s
    assert Pace().silent_s == Engine().silent_s
    assert Pace().hold_s == Server().route_hold_s


def test_the_same_run_twice_is_the_same_log_byte_for_byte_whatever_the_hash_seed() -> None:
    program = (
        "import hashlib\nfrom tests.sim.test_simulator import logged\n"
        "print(hashlib.sha256('\\n'.join(logged()).encode()).hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONHASHSEED": "1"}, capture_output=True, text=True
    )  # here it is another: the hash seed is drawn
    assert run.stderr == ""
    assert run.stdout.strip() == hashlib.sha256("\n".join(logged()).encode()).hexdigest()


def test_another_seed_is_another_run() -> None:
    runs: list[list[str]] = [[], []]
    for seed, lines in enumerate(runs):
        World(SCALING, arrivals(), (FAULTY,), seed, log=lines.append).run(200)
    assert runs[0] != runs[1]


def test_to_leave_out_lists_that_tell_nothing_new_changes_nothing() -> None:
    class Diligent(World):
        def _list(self) -> None:
            self._listed_as = ()
            super()._list()

    assert logged(Diligent) == logged()


@pytest.mark.long
def test_through_every_fault_of_the_market_every_request_is_answered_and_no_rule_broken() -> None:
    world = World(SCALING, arrivals(400.0), (FAULTY,), 5)
    world.run(1500)
    assert world.given[Command.RENT] > 10
    assert world.audit.state_s[State.UNAVAIL] > 0
    assert world.pending == 0


def test_hardware_that_is_cheaper_per_work_is_rented_first() -> None:
    dear = replace(HARDWARE, gpu="dear")
    cheap = replace(HARDWARE, gpu="cheap", perf=50.0, price=replace(HARDWARE.price, ready_usd_h=0.2, loading_usd_h=0.2))
    world = World(SCALING, arrivals(), (dear, cheap)).run(600)
    kinds = [w.gpu_name for w in world.fleet.workers.values()]
    assert kinds.count("cheap") > 3
    assert kinds.count("dear") <= 1  # on trial


def test_a_type_that_leaves_the_market_takes_its_workers_with_it() -> None:
    scaling = replace(SCALING, min_load=100.0, cold_mult=1.0)  # none is stopped: a stopped one would stay
    world = World(scaling, (), (replace(HARDWARE, offered_h=0.2, away_h=100.0),)).run(3600)
    assert world.instances == {}
    assert world.market.offers() == ()
    assert {w.state for w in world.fleet.workers.values()} <= {State.CREATING}


class Remembering(World):
    def __init__(self, *args: object, **others: object) -> None:
        self.asked: list[Client] = []
        self.ends: list[Client] = []
        super().__init__(*args, **others)  # type: ignore[arg-type]

    def on_request(self, client: Client) -> None:
        self.asked.append(client)

    def on_end(self, client: Client) -> None:
        self.ends.append(client)


def test_a_client_with_a_timeout_gives_up_and_leaves_no_work_behind() -> None:
    one_slow = replace(HARDWARE, perf=10.0, slots=1)
    scaling = replace(SCALING, max_workers=1, max_queue_time=3600.0)
    world = Remembering(
        scaling, ((n * 10.0, 200.0) for n in range(30)), (one_slow,), behaviour=ClientBehaviour(timeout_s=100.0)
    )
    world.run(1000)
    gone = [c for c in world.ends if c.gone]
    assert gone
    assert all(c.answered_at - c.asked_at <= 100 for c in world.ends if not c.gone)
    assert (len(world.ends), len(world.fleet.ledger)) == (30, 0)


@pytest.mark.parametrize(("retries", "served"), [(0, False), (100, True)])
def test_a_classic_client_takes_an_answer_without_a_worker_for_a_failure(retries: int, served: bool) -> None:
    behaviour = ClientBehaviour(ClientKind.CLASSIC, retries=retries)
    world = Remembering(SCALING, [(1.0, 100.0)], (HARDWARE,), behaviour=behaviour).run(400)
    (client,) = world.ends
    assert (client.answered_at > 0) is served
    assert client.gone is not served


def test_the_bell_brings_the_first_worker_sooner() -> None:
    scaling = replace(SCALING, cold_workers=0)
    ringing = World(scaling, [(10.3, 100.0)], (HARDWARE,)).run(11)
    quiet = World(scaling, [(10.3, 100.0)], (HARDWARE,), pace=Pace(bell=False)).run(12)
    (first,) = ringing.fleet.workers.values()
    (later,) = quiet.fleet.workers.values()
    assert first.created_at < later.created_at == sim.START_AT + 11


@pytest.mark.parametrize(("agent", "latest_s"), [(True, 0.0), (False, 1.0)])
def test_an_agent_tells_at_once_what_the_other_worker_tells_within_a_second(agent: bool, latest_s: float) -> None:
    scaling = replace(SCALING, min_load=50.0, cold_workers=0)
    world = World(scaling, (), (replace(HARDWARE, agent=agent),)).run(120.3)
    client = world.request(150.0)  # 6 s
    world.run(126.25)
    assert (client.answered_at, len(world.fleet.ledger)) == (0.0, 1)
    world.run(126.3 + latest_s + 1e-3)
    assert client.answered_at == pytest.approx(sim.START_AT + 126.3)
    assert len(world.fleet.ledger) == 0


def test_how_often_clients_poll_can_be_said() -> None:
    def polls(behaviour: ClientBehaviour) -> int:
        world = Remembering(replace(SCALING, max_workers=0), [(1.0, 100.0)], (HARDWARE,), behaviour=behaviour).run(101)
        return world.asked[0].polls

    assert polls(ClientBehaviour(polls_s=(0.2, 0.4))) > 1.5 * polls(ClientBehaviour())
