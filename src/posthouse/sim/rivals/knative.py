"""Knative's pod autoscaler (KPA), metric concurrency.

Source: knative/serving at 98e5ef9, pkg/autoscaler/scaling and config-autoscaler defaults.
"""

import math

from posthouse.domain.plan import Decision, Memory, Snapshot
from posthouse.sim.rivals.steer import in_flight, ready_count, steer
from posthouse.sim.rivals.window import Samples

TICK_S = 2.0
STABLE_S, PANIC_S = 60.0, 6.0
PANIC_THRESHOLD = 2.0
MOST_UP, MOST_DOWN = 1000.0, 2.0
"""Largest factors of one step."""
ZERO_GRACE_S = 30.0


class Knative:
    """`target`: requests at once per worker; its default is 70 % of what a worker may have."""

    def __init__(self, slots: int, utilisation: float = 0.7) -> None:
        self.target = slots * utilisation
        self._seen = Samples(STABLE_S)
        self._tick_at = -math.inf
        self._panic_at: float | None = None
        self._most_in_panic = 0
        self._busy_at = -math.inf
        self._wanted = 0

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        self._seen.add(s.now, in_flight(s))
        if s.now - self._tick_at >= TICK_S:
            self._tick_at = s.now
            self._wanted = self._scale(s.now, max(1, ready_count(s)))
        return steer(s, memory, self._wanted, "Knative KPA")

    def _scale(self, now: float, ready: int) -> int:
        stable, panic = self._seen.mean(now, STABLE_S), self._seen.mean(now, PANIC_S)
        low, high = math.floor(ready / MOST_DOWN), math.ceil(MOST_UP * ready)
        wanted = min(max(math.ceil(stable / self.target), low), high)
        in_panic = min(max(math.ceil(panic / self.target), low), high)
        if math.ceil(panic / self.target) / ready >= PANIC_THRESHOLD:
            self._panic_at = now
        elif self._panic_at is not None and self._panic_at + STABLE_S < now:
            self._panic_at, self._most_in_panic = None, 0
        if self._panic_at is not None:
            self._most_in_panic = max(self._most_in_panic, wanted, in_panic)
            wanted = self._most_in_panic
        if stable > 0:
            self._busy_at = now
        if wanted == 0 and now - self._busy_at < ZERO_GRACE_S:
            return min(1, self._wanted)
        return wanted
