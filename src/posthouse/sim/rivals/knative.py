"""Knative's pod autoscaler (KPA), metric concurrency.

Source: knative/serving at 98e5ef9, pkg/autoscaler/scaling, pkg/reconciler/autoscaling/kpa, and the defaults of
config-autoscaler.
"""

import math

from posthouse.domain.decision import Decision, Memory, Snapshot
from posthouse.sim.rivals.target import apply_target, in_flight, ready_count
from posthouse.sim.rivals.window import Mean, Most

TICK_S = 2.0
STABLE_S, PANIC_SHARE = 60.0, 0.1
PANIC_THRESHOLD = 2.0
MAX_UP, MAX_DOWN = 1000.0, 2.0
"""Largest factors of one step."""
ZERO_GRACE_S = 30.0


class Knative:
    """Requests at once per worker, of which `utilisation` is the share of what a worker may have.

    `stable_s`: its window; the one of panic is a tenth. `down_delay_s`: a lower wish must have lasted so long.
    """

    def __init__(
        self, slots: int, utilisation: float = 0.7, stable_s: float = STABLE_S, down_delay_s: float = 0.0
    ) -> None:
        self.target, self.stable_s = slots * utilisation, stable_s
        self._stable, self._panic = Mean(stable_s), Mean(max(1, round(PANIC_SHARE * stable_s)))
        self._delayed = Most(down_delay_s)
        self._tick_at = -math.inf
        self._panic_at: float | None = None
        self._most_in_panic = 0
        self._busy_at = -math.inf
        self._wanted = 0

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        asked = in_flight(s)
        stable, panic = self._stable.add(s.now, asked), self._panic.add(s.now, asked)
        if s.now - self._tick_at >= TICK_S:
            self._tick_at = s.now
            self._wanted = self._scale(s.now, stable, panic, max(1, ready_count(s)))
        return apply_target(s, memory, self._wanted, "Knative KPA")

    def _scale(self, now: float, stable: float, panic: float, ready: int) -> int:
        low, high = math.floor(ready / MAX_DOWN), math.ceil(MAX_UP * ready)
        in_panic = math.ceil(panic / self.target)
        over = in_panic / ready >= PANIC_THRESHOLD
        wanted = min(max(math.ceil(stable / self.target), low), high)
        in_panic = min(max(in_panic, low), high)
        if over:
            self._panic_at = now
        elif self._panic_at is not None and self._panic_at + self.stable_s < now:
            self._panic_at, self._most_in_panic = None, 0
        if self._panic_at is not None:
            self._most_in_panic = wanted = max(self._most_in_panic, wanted, in_panic)
        wanted = self._delayed.add(now, wanted)
        if stable > 0:
            self._busy_at = now
        if wanted == 0 and now - self._busy_at < ZERO_GRACE_S:
            return min(1, self._wanted)
        return wanted
