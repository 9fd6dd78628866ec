"""Ray Serve's autoscaler.

Source: ray 2.60, serve/autoscaling_policy.py and the defaults of AutoscalingConfig.
"""

import math

from posthouse.domain.decision import Decision, Memory, Snapshot
from posthouse.sim.rivals.target import apply_target, in_flight
from posthouse.sim.rivals.window import Mean

LOOK_BACK_S = 30.0
UP_DELAY_S, DOWN_DELAY_S = 30.0, 600.0
TARGET = 2.0
"""Ongoing requests per worker."""


class RayServe:
    """A step is taken when the wish for it has lasted its delay in one direction; from zero at once.

    `target`: ongoing requests per worker, or where `utilisation` is not 0 that share of what a worker may have.
    """

    def __init__(
        self,
        slots: int,
        target: float = TARGET,
        utilisation: float = 0.0,
        up_delay_s: float = UP_DELAY_S,
        down_delay_s: float = DOWN_DELAY_S,
        least: int = 1,
    ) -> None:
        self.target, self.least = slots * utilisation or target, least
        self.up_delay_s, self.down_delay_s = up_delay_s, down_delay_s
        self._seen = Mean(LOOK_BACK_S)
        self._wanted = least
        self._direction = 0
        self._since = 0.0

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        asked = in_flight(s)
        desired = max(self.least, math.ceil(self._seen.add(s.now, asked) / self.target))
        if self._wanted == 0 and asked > 0:
            self._wanted = max(1, desired)
        elif desired == 0 and self._wanted > 1:
            desired = 1  # the last one goes in a step of its own
        direction = (desired > self._wanted) - (desired < self._wanted)
        if direction != self._direction:
            self._direction, self._since = direction, s.now
        if direction and s.now - self._since >= (self.up_delay_s if direction > 0 else self.down_delay_s):
            self._wanted, self._direction = desired, 0
        return apply_target(s, memory, self._wanted, "Ray Serve")
