"""SkyServe's request rate autoscaler, for workers of one kind.

Source: skypilot 0.14.1, sky/serve/autoscalers.py (RequestRateAutoscaler, _AutoscalerWithHysteresis) and the defaults of
sky/serve/constants.py. The rate for each worker has no default there: here 70 % of what it can do. Requests count by
their work, as if all were alike.
"""

import math

from posthouse.domain.decision import Decision, Memory, Snapshot
from posthouse.sim.rivals.target import apply_target

DECIDE_S, DECIDE_AT_ZERO_S = 20.0, 5.0
UP_DELAY_S, DOWN_DELAY_S = 300.0, 1200.0


class SkyServe:
    """The rate of the last minute over what a worker shall take, once so many decisions in a row have said so.

    `over`: workers beyond that.
    """

    def __init__(
        self,
        perf: float,
        utilisation: float = 0.7,
        up_delay_s: float = UP_DELAY_S,
        down_delay_s: float = DOWN_DELAY_S,
        over: int = 0,
        least: int = 1,
    ) -> None:
        self.per_worker, self.over, self.least = perf * utilisation, over, least
        self._enough = {1: int(up_delay_s / DECIDE_S), -1: int(down_delay_s / DECIDE_S)}
        self._direction = self._count = 0
        self._target = least
        self._decided_at = -math.inf

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        if s.now - self._decided_at >= (DECIDE_S if self._target else DECIDE_AT_ZERO_S):
            self._decided_at = s.now
            self._decide(max(self.least, math.ceil(s.demand.rate / self.per_worker)))
        return apply_target(s, memory, self._target + self.over, "SkyServe")

    def _decide(self, target: int) -> None:
        direction = (target > self._target) - (target < self._target)
        self._count = self._count + 1 if direction == self._direction else 1
        self._direction = direction
        if self._target == 0 or (direction and self._count >= self._enough[direction]):
            self._target, self._count = target, 0
