"""The clock, while that of its machine is set, and while the machine is suspended."""

import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from posthouse.engine import clock as clock_module
from posthouse.engine.clock import AHEAD_S, SystemClock

HOUR_S = 3600.0


class Machine:
    """The clocks of a machine."""

    def __init__(self) -> None:
        self.wall_s, self.steady_s = datetime(2026, 1, 1, tzinfo=UTC).timestamp(), 1000.0

    def time(self) -> float:
        return self.wall_s

    def clock_gettime(self, which: int) -> float:
        return self.steady_s

    def passes(self, span_s: float) -> None:
        self.wall_s += span_s
        self.steady_s += span_s


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(clock_module, "time", SimpleNamespace(time=machine.time, clock_gettime=machine.clock_gettime))
    return machine


@pytest.mark.parametrize("step_s", [-5 * HOUR_S, -1.0, 1.0, 5 * HOUR_S])
def test_a_step_of_the_machines_clock_is_no_step_of_ours(machine: Machine, step_s: float) -> None:
    clock = SystemClock()
    before = clock.now()
    machine.wall_s += step_s
    assert clock.now() == before
    machine.passes(7.0)
    assert clock.now() == pytest.approx(before + 7.0)
    assert clock.wall() == machine.wall_s  # what is compared with clocks of others follows


def test_a_clock_that_was_set_back_starts_beyond_what_is_known(machine: Machine) -> None:
    earlier = SystemClock()
    machine.passes(100.0)
    machine.wall_s -= 5 * HOUR_S
    clock = SystemClock(latest_at=earlier.now())
    assert clock.behind_s == pytest.approx(5 * HOUR_S)
    assert clock.now() == pytest.approx(earlier.now() + AHEAD_S)


def test_a_usual_start_is_at_the_machines_time(machine: Machine) -> None:
    clock = SystemClock(latest_at=machine.wall_s - 2.0)
    assert clock.behind_s == 0
    assert clock.now() == pytest.approx(machine.wall_s)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that counts suspension")
def test_time_in_which_the_machine_is_suspended_counts() -> None:
    assert clock_module.STEADY == time.CLOCK_BOOTTIME
