"""Ray Serve's autoscaler.

Source: ray 2.60, serve/autoscaling_policy.py and the defaults of AutoscalingConfig.
"""

import math

from posthouse.domain.plan import Decision, Memory, Snapshot
from posthouse.sim.rivals.steer import in_flight, steer
from posthouse.sim.rivals.window import Samples

LOOK_BACK_S = 30.0
UP_DELAY_S, DOWN_DELAY_S = 30.0, 600.0
TARGET = 2.0
"""Ongoing requests per worker."""


class RayServe:
    """A step is taken when the wish for it has lasted its delay in one direction; from zero at once."""

    def __init__(self, target: float = TARGET, least: int = 1) -> None:
        self.target, self.least = target, least
        self._seen = Samples(LOOK_BACK_S)
        self._wanted = least
        self._up_since: float | None = None
        self._down_since: float | None = None

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        self._seen.add(s.now, in_flight(s))
        desired = max(self.least, math.ceil(self._seen.mean(s.now, LOOK_BACK_S) / self.target))
        if self._wanted == 0 and in_flight(s) > 0:
            self._wanted = max(1, desired)
        elif desired > self._wanted:
            self._down_since = None
            self._up_since = s.now if self._up_since is None else self._up_since
            if s.now - self._up_since >= UP_DELAY_S:
                self._wanted, self._up_since = desired, None
        elif desired < self._wanted:
            self._up_since = None
            self._down_since = s.now if self._down_since is None else self._down_since
            if s.now - self._down_since >= DOWN_DELAY_S:
                self._wanted, self._down_since = desired, None
        else:
            self._up_since = self._down_since = None
        return steer(s, memory, self._wanted, "Ray Serve")
