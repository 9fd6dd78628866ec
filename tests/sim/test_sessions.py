"""Sessions in virtual time: a worker stays for as long as one is open on it, whatever else happens."""

from dataclasses import replace
from random import Random

import pytest

from posthouse.domain.endpoint import EndpointState, Scaling
from posthouse.domain.lifecycle import Goal, Observation, State
from posthouse.domain.reports import Ended
from posthouse.domain.worker import WorkerId
from posthouse.fleet.events import Assignment, Dismissed
from posthouse.policy.tuning import TUNING
from tests.kit.marks import long
from tests.sim.world import ANSWER_S, HEARTBEAT_S, LIST_S, SILENT_S, TICK_S, Client, Machines, SimInstance, World

BARE = Scaling(min_load=0.0, target_util=0.9, cold_mult=0.0, cold_workers=0, max_workers=100)
FIRST = WorkerId(1)
SOON_S = 2 * TICK_S + 2 * HEARTBEAT_S + ANSWER_S + LIST_S
"""Until a decision that nothing stands in the way of any more is carried out and seen."""


class Peers(World):
    """A world in which clients also open sessions."""

    def __init__(self, scaling: Scaling, **others: object) -> None:
        super().__init__(scaling, **others)  # type: ignore[arg-type]
        self.sessions: set[Client] = set()

    def open(self, cost: float = 100.0) -> Client:
        """A new session, asked for now."""
        client = Client(cost, self.now)
        self.sessions.add(client)
        self._ask(client)
        return client

    def box_of(self, client: Client) -> SimInstance | None:
        """Where a session is open; None if it is not."""
        return next((b for b in self.instances.values() if b.working.get(client.idx) is client), None)

    def close(self, client: Client) -> None:
        instance = self.box_of(client)
        assert instance is not None
        del instance.working[client.idx]
        instance.ended.append(Ended(client.idx, success=True, session=True))
        self.report_soon(instance)

    def kill(self, instance: SimInstance, seen: Observation, ordered: bool = False) -> None:
        # Its client cannot go on elsewhere: what the session was about died with the worker.
        instance.working = {idx: client for idx, client in instance.working.items() if client not in self.sessions}
        super().kill(instance, seen, ordered)

    def _send(self, client: Client, to: Assignment) -> None:
        instance = self.instances.get(to.worker.label)
        if client not in self.sessions or instance is None or not instance.ready:
            super()._send(client, to)
            return
        client.idx = to.request_idx
        client.workers.append(to.worker.id)
        instance.working[client.idx] = client
        self.report_soon(instance)


def test_a_worker_is_not_stopped_while_a_session_is_open_on_it_and_goes_when_it_is_closed() -> None:
    world = Peers(replace(BARE, inactivity_timeout=0.0), load=lambda t: 450.0 if t < 200 else 0.0)
    world.run(150)
    session = world.open()
    world.run(150 + 600)
    instance = world.box_of(session)
    assert instance is not None
    kept = world.fleet.workers[instance.worker_id]
    assert (kept.state, world.fleet.ledger.outstanding()) == (State.IDLE, session.cost)
    world.close(session)
    world.run(150 + 600 + SOON_S + 60)
    assert (world.count(State.IDLE), len(world.fleet.ledger), world.cut) == (0, 0, [])


def test_a_worker_that_is_to_go_takes_no_new_session_and_keeps_the_one_it_has() -> None:
    world = Peers(replace(BARE, min_load=90.0))
    world.run(100)
    first = world.open()
    world.run(102)
    world.tell(Dismissed((FIRST,)))
    world.run(200)
    second = world.open()
    world.run(500)
    assert world.fleet.workers[FIRST].state is State.IDLE
    assert (first.workers, second.workers) == ([FIRST], [2])
    world.close(first)
    world.run(500 + SOON_S + 60)
    assert FIRST not in world.fleet.workers
    assert (world.box_of(second) is not None, world.cut) == (True, [])


@pytest.mark.parametrize("stabilization_s", [0.0, 60.0])
@pytest.mark.parametrize("away_s", [0.0, 300.0])
def test_a_session_on_a_worker_that_was_to_stop_outlives_a_restart_of_the_server(
    stabilization_s: float, away_s: float
) -> None:
    world = Peers(BARE, load=lambda t: 90.0 if t < 100 else 0.0)
    world.run(90)
    session = world.open()
    world.run(95)
    world.configure(EndpointState.STOPPED)
    world.run(300)
    instance = world.box_of(session)
    assert instance is not None
    assert world.fleet.workers[instance.worker_id].goal is Goal.COLD
    world.restart(stabilization_s, away_s)
    world.run(300 + away_s + 600)
    assert world.box_of(session) is instance
    assert world.cut == []
    world.close(session)
    world.run(300 + away_s + 600 + SOON_S + 60)
    assert world.fleet.workers[instance.worker_id].state is State.STOPPED


def test_what_a_session_holds_is_known_again_after_a_restart() -> None:
    world = Peers(replace(BARE, min_load=90.0))
    world.run(100)
    session = world.open(cost=300.0)
    world.run(150)
    world.restart(stabilization_s=60)
    world.run(170)
    assert world.fleet.ledger.at == {FIRST: {session.idx: world.fleet.ledger.open.get(session.idx)}}
    world.close(session)
    world.run(170 + SOON_S)
    assert len(world.fleet.ledger) == 0


@pytest.mark.parametrize("seen", [Observation.RUNNING, Observation.EXITED, Observation.HALTED])
def test_a_session_ends_with_its_worker(seen: Observation) -> None:
    world = Peers(replace(BARE, min_load=90.0))
    world.run(100)
    world.open()
    world.run(110)
    assert len(world.fleet.ledger) == 1
    world.kill(world.instances["test-1"], seen)
    world.run(110 + SILENT_S + 300)
    assert len(world.fleet.ledger) == 0
    assert world.count(State.IDLE) == 1  # another, or the same again


def test_how_long_sessions_were_open_does_not_count_as_how_long_requests_take() -> None:
    def learned_s(sessions: int) -> float:
        world = Peers(replace(BARE, min_load=360.0, max_workers=4), load=lambda t: 50.0 if t < 100 else 0.0)
        for number in range(sessions):  # one after the other, so that each has a worker for itself
            world.run(200 + 50 * number)
            session = world.open()
            world.run(240 + 50 * number)
            world.close(session)
        world.run(200 + 50 * sessions)
        world.request()
        world.run(world.t + TICK_S)
        return world.fleet.snapshot(world.now, ()).demand.service_s

    machines = Machines()
    assert learned_s(0) == pytest.approx(100 * machines.lanes / machines.perf, abs=2 * HEARTBEAT_S)
    assert learned_s(TUNING.samples) == learned_s(0)


def test_many_sessions_are_load_that_more_workers_are_made_for() -> None:
    world = Peers(replace(BARE, min_load=90.0, max_workers=5))
    world.run(100)
    for number in range(60):
        world.run(100 + number)
        world.open()
    world.run(300)
    assert world.count(State.IDLE) > 1
    assert len({c.workers[-1] for c in world.sessions if c.workers}) > 1
    assert world.cut == []


@pytest.mark.parametrize("seed", [0, *map(long, range(1, 6))])
def test_whatever_load_and_restarts_come_no_session_is_cut_off(seed: int) -> None:
    random = Random(seed)
    steps = sorted((random.uniform(0, 900), random.choice([0.0, 50.0, 150.0])) for _ in range(6))

    def load(t: float) -> float:
        return next((work for at, work in reversed(steps) if at <= t), 0.0)

    world = Peers(replace(BARE, cold_mult=1.0, max_workers=6), load=load, poisson=True, seed=seed)
    t = 0.0
    while t < 900:
        t += random.uniform(5, 40)
        world.run(t)
        still = [s for s in world.sessions if world.box_of(s)]
        match random.randrange(6):
            case 0 if not world.down:
                world.restart(random.choice([0.0, 60.0]), random.choice([0.0, 5.0, 120.0]))
            case 1 if still:
                world.close(random.choice(sorted(still, key=lambda s: s.idx)))
            case 2:
                world.configure(random.choice([EndpointState.ACTIVE, EndpointState.STOPPED]))
            case _ if not world.down:
                world.open(random.choice([1.0, 100.0, 1000.0]))
    world.run(t + 200)  # the server is there
    assert world.cut == []
    for session in [s for s in world.sessions if world.box_of(s)]:
        world.close(session)
    world.configure(EndpointState.STOPPED)
    world.run(1500)
    assert (world.count(State.IDLE), world.cut) == (0, [])
