"""The fleet is steady where the load is, follows where it is not, and no nonsense freezes it."""

import math
from itertools import pairwise

import pytest
from msgspec.structs import replace

from posthouse.domain.endpoint import SLO_MODES, Scaling
from posthouse.domain.lifecycle import COMING, Command, Goal, State
from posthouse.domain.reports import Report
from tests.kit.marks import long
from tests.sim.world import ANSWER_S, HEARTBEAT_S, START_AT, TICK_S, Machines, SimInstance, World

SETTLED_T, WINDOW_S = 600, 600
"""From when on a constant load is looked at, and for how long."""
STEPS = [(0.0, 300.0, 5.0), (90.0, 900.0, 40.0)]
OTHER_STEPS = [(0.0, 300.0, 40.0), (90.0, 900.0, 5.0), (450.0, 1800.0, 5.0), (450.0, 1800.0, 40.0)]


def scaling(slo_mode: str, **more: float) -> Scaling:
    fixed = {"min_load": 0.0, "cold_mult": 2.0, "cold_workers": 0, "max_workers": 100}
    return Scaling(**{**fixed, "slo_mode": slo_mode, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("slo_mode", SLO_MODES)
@pytest.mark.parametrize(
    ("load", "perf"),
    [(40.0, 50.0), long(40.0, 400.0), long(500.0, 50.0), long(3000.0, 400.0)],
)
def test_constant_load_turns_the_fleet_at_most_twice_in_ten_minutes(slo_mode: str, load: float, perf: float) -> None:
    cost = max(perf / 2, load / 5)
    world = World(scaling(slo_mode), load=lambda t: load, cost=cost, machines=Machines(perf=perf))
    world.run(SETTLED_T + WINDOW_S)
    moments = [m for m in world.history if m.t >= SETTLED_T]
    sizes = [m.number(State.IDLE, *COMING) for m in moments]
    steps = [b - a for a, b in pairwise(sizes) if a != b]
    assert sum((a > 0) != (b > 0) for a, b in pairwise(steps)) <= 2
    assert min(m.supply for m in moments) >= load


@pytest.mark.parametrize("slo_mode", SLO_MODES)
@pytest.mark.parametrize(("low", "high", "start_s"), [*STEPS, *(long(*step) for step in OTHER_STEPS)])
def test_a_step_is_met_within_a_start_and_two_ticks_of_when_it_is_seen(
    slo_mode: str, low: float, high: float, start_s: float
) -> None:
    machines = Machines(start_s=start_s)
    given = scaling(slo_mode, min_cold_load=4 * high)
    world = World(given, load=lambda t: low if t < 400 else high, cost=high / 20, machines=machines).run(500)
    needed_t = next(m.t for m in world.history if m.t > 400 and m.need >= high)
    met_t = next(m.t for m in world.history if m.t > 400 and m.ready * machines.perf >= high)
    assert met_t <= needed_t + start_s + 2 * TICK_S + HEARTBEAT_S + ANSWER_S


@pytest.mark.parametrize("slo_mode", SLO_MODES)
@pytest.mark.parametrize(("load", "timeout_s"), [(40.0, 300.0), (900.0, 30.0), long(40.0, 30.0), long(900.0, 300.0)])
def test_the_fleet_goes_to_zero_within_the_timeout_and_a_tick(slo_mode: str, load: float, timeout_s: float) -> None:
    given = scaling(slo_mode, inactivity_timeout=timeout_s)
    world = World(given, load=lambda t: load if t < 200 else 0.0, cost=40).run(200 + timeout_s)
    last_t = max(c.answered_at for c in world.clients) - START_AT
    assert last_t > 200
    # Its worker tells of the last end within a beat.
    world.run(last_t + timeout_s + HEARTBEAT_S + TICK_S)
    assert not any(w.goal is Goal.HOT for w in world.fleet.workers.values())
    assert world.times(Command.STOP)


@pytest.mark.parametrize("slo_mode", SLO_MODES)
@pytest.mark.parametrize("perf", [math.nan, long(0.0), None])
def test_a_worker_that_reports_nonsense_or_nothing_does_not_freeze_scaling(
    monkeypatch: pytest.MonkeyPatch, slo_mode: str, perf: float | None
) -> None:
    world = World(scaling(slo_mode), load=lambda t: 90.0 if t < 120 else 900.0, cost=45).run(100)
    worker, sound = next(w for w in world.fleet.workers.values() if w.state is State.IDLE), SimInstance.report

    def report(instance: SimInstance) -> Report:
        said = sound(instance)
        return replace(said, max_perf=perf) if instance.label == worker.label else said

    monkeypatch.setattr(SimInstance, "report", report)
    world.run(440)  # the mean of five minutes is that of the higher load alone
    assert math.isfinite(world.history[-1].need)
    assert world.history[-1].ready * world.machines.perf >= 900
