"""AWS: target tracking, and predictive scaling that only adds to it.

Source: docs.aws.amazon.com, Application Auto Scaling user guide, target-tracking-scaling-policy-overview and
aas-predictive-scaling-how-it-works; EC2 Auto Scaling, PredictiveScalingConfiguration: at least 24 hours and up to 14
days of data, a forecast of the next 48 hours, made again every 6 hours, instances launched SchedulingBufferTime
early. The metric is that of SageMaker, concurrent requests per model, over a minute. How AWS forecasts is not
published: here the mean of the same hour in the weeks before, or in the days before while there is no week. Alarms are
taken at their first minute, sooner than AWS does; in-scaling begins a tenth below the target.
"""

import math

from posthouse.domain.decision import Decision, Memory, Snapshot
from posthouse.sim.rivals.target import apply_target, in_flight
from posthouse.sim.rivals.window import Mean, Periods

TICK_S = 60.0
COOLDOWN_S = BUFFER_S = 300.0
SLACK = 0.9
HOUR_S, DAY_H, WEEK_H = 3600.0, 24, 168
HISTORY_H, AHEAD_H, REFRESH_H = 14 * DAY_H, 48, 6


class Forecast:
    """The load of the hours to come, from that of the hours before."""

    def __init__(self) -> None:
        self.hours: dict[int, float] = {}
        """Load by hour, as it was."""
        self.ahead: dict[int, float] = {}
        self._periods = Periods(HOUR_S)
        self._made = -REFRESH_H

    def add(self, now: float, load: float) -> None:
        for hour, mean in self._periods.add(now, load):
            self.hours[hour] = mean
            self.hours.pop(hour - HISTORY_H, None)
            if len(self.hours) >= DAY_H and hour - self._made >= REFRESH_H:
                self._made = hour
                self.ahead = {h: self._expected(h) for h in range(hour + 1, hour + 1 + AHEAD_H)}

    def _expected(self, hour: int) -> float:
        for period in (WEEK_H, DAY_H):
            seen = [self.hours[h] for h in range(hour - period, hour - HISTORY_H - 1, -period) if h in self.hours]
            if seen:
                return sum(seen) / len(seen)
        return 0.0

    def at(self, now: float) -> float:
        return self.ahead.get(int(now // HOUR_S), 0.0)


class Aws:
    """`utilisation`: the target, as a share of the requests that a worker may have, and of what it can do.

    `cooldown_s`: nothing goes sooner after a change. `buffer_s`: how early the forecast is met.
    """

    def __init__(
        self,
        slots: int,
        perf: float,
        utilisation: float = 0.7,
        cooldown_s: float = COOLDOWN_S,
        buffer_s: float = BUFFER_S,
    ) -> None:
        self.target, self.load = slots * utilisation, perf * utilisation
        self.cooldown_s, self.buffer_s = cooldown_s, buffer_s
        self.forecast = Forecast()
        self._seen = Mean(TICK_S)
        self._wanted = 1
        self._tick_at = self._changed_at = -math.inf

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        now = s.now
        self.forecast.add(now, s.demand.rate)
        asked = self._seen.add(now, in_flight(s))
        foreseen = max(self.forecast.at(now), self.forecast.at(now + self.buffer_s))
        floor = max(1, math.ceil(foreseen / self.load))
        wanted = max(self._wanted, floor)
        if now - self._tick_at >= TICK_S:
            self._tick_at = now
            tracked = math.ceil(asked / self.target)
            slack = asked < SLACK * self.target * self._wanted
            if tracked > wanted or (slack and now - self._changed_at >= self.cooldown_s):
                wanted = max(tracked, floor)
        if wanted != self._wanted:
            self._wanted, self._changed_at = wanted, now
        return apply_target(s, memory, wanted, "AWS target tracking and forecast")
