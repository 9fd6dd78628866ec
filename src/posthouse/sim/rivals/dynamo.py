"""The planner of NVIDIA Dynamo: a forecast as the floor, and a faster loop on what the engines have to do.

Source: ai-dynamo 1.6.1, planner/core/throughput_scaling.py, load_scaling.py, load/predictors.py and planner defaults.
Its goals of time to first token and between tokens stand for what a worker here is: with more requests than slots the
goal is missed. An engine's rate is therefore its perf; the sensitivity of 80 % is of its slots. Of its predictors the
Kalman filter and the last value are here, not ARIMA, its default, nor Prophet.
"""

import math

from posthouse.domain.decision import Decision, Memory, Snapshot
from posthouse.policy.capacity import ready, supply
from posthouse.policy.needs import expected_wait_s
from posthouse.sim.rivals.target import apply_target, hot_count, in_flight
from posthouse.sim.rivals.window import Periods

THROUGHPUT_S, LOAD_S = 180.0, 5.0
MAX_CHANGE = 8
"""Of the floor, in one step."""
TTFT_S = 0.5
SENSITIVITY = 0.8
Q_LEVEL, Q_TREND, R, P_FIRST = 1.0, 0.1, 10.0, 1000.0
MIN_POINTS = 5


class Kalman:
    """A local linear trend, seen through noise."""

    def __init__(self) -> None:
        self.level = self.trend = 0.0
        self.points = 0
        self._p = (P_FIRST, 0.0, P_FIRST)

    def next(self, value: float) -> float:
        """What follows after `value`. What comes before the first that is not 0 is left out."""
        if self.points == 0:
            self.level, self.points = value, int(value != 0)
            return value
        self.points += 1
        a, b, d = self._p
        a, b, d = a + 2 * b + d + Q_LEVEL, b + d, d + Q_TREND
        surprise = value - self.level - self.trend
        gain, gain_trend = a / (a + R), b / (a + R)
        self.level += self.trend + gain * surprise
        self.trend += gain_trend * surprise
        self._p = ((1 - gain) * a, (1 - gain) * b, d - gain_trend * b)
        return value if self.points < MIN_POINTS else max(0.0, self.level + self.trend)


class Dynamo:
    """One more when every engine misses its goal, one less when those left would keep it well.

    `utilisation`: at which share of its perf an engine is counted. `sensitivity`: how full those left may be.
    `kalman`: 1, else the last value is the forecast.
    """

    def __init__(
        self,
        slots: int,
        perf: float,
        utilisation: float = 1.0,
        sensitivity: float = SENSITIVITY,
        kalman: int = 1,
    ) -> None:
        self.slots, self.per_worker, self.sensitivity = slots, perf * utilisation, sensitivity
        self.floor = 1
        self._kalman = Kalman() if kalman else None
        self._periods = Periods(THROUGHPUT_S)
        self._wanted = 1
        self._tick_at = -math.inf

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        workers = ready(s.workers)
        for _, rate in self._periods.add(s.now, s.demand.rate):
            forecast = self._kalman.next(rate) if self._kalman else rate
            floor = min(
                max(math.ceil(forecast / self.per_worker), len(workers) - MAX_CHANGE), len(workers) + MAX_CHANGE
            )
            self.floor = max(1, floor)
        if s.now - self._tick_at >= LOAD_S:
            self._tick_at = s.now
            if hot_count(s) == len(workers):  # else it only watches, until what is starting has started
                wait_s = expected_wait_s(s.demand, supply(workers, s.estimates))
                self._wanted = max(self.floor, self._step(len(workers), in_flight(s), wait_s))
        return apply_target(s, memory, self._wanted, "Dynamo")

    def _step(self, count: int, asked: int, wait_s: float) -> int:
        if asked > self.slots * count or wait_s > TTFT_S:
            return count + 1
        return count - 1 if asked < self.sensitivity * self.slots * (count - 1) else count
