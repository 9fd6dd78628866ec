"""The horizontal pod autoscaler (HPA), and KEDA on a queue.

Source: kubernetes pkg/controller/podautoscaler and the documented defaults of `behavior`; KEDA's documentation; for
KEDA's numbers helm/values.yaml of vLLM's production-stack, which scales on `vllm:num_requests_waiting` and keeps one.
"""

import math

from posthouse.domain.decision import Decision, Memory, Snapshot
from posthouse.sim.rivals.target import apply_target, hot_count, in_flight, ready_count
from posthouse.sim.rivals.window import Most

TICK_S = 15.0
TOLERANCE = 0.1
DOWN_STABLE_S = 300.0
MAX_UP_FACTOR, MAX_UP_PODS = 2, 4
"""Of one step: the larger of the two."""
WAITING_TARGET, POLL_S, COOLDOWN_S = 5.0, 15.0, 360.0


class Hpa:
    """An external metric with an average value: requests at once per worker. It never goes to zero.

    `utilisation`: which share of what a worker may have is the target. `down_stable_s`: the stabilisation window.
    """

    def __init__(self, slots: int, utilisation: float = 0.7, down_stable_s: float = DOWN_STABLE_S) -> None:
        self.target = slots * utilisation
        self._tick_at = -math.inf
        self._recommended = Most(down_stable_s)
        self._wanted = 1

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        if s.now - self._tick_at >= TICK_S:
            self._tick_at = s.now
            self._wanted = self.scale(s.now, in_flight(s), hot_count(s))
        return apply_target(s, memory, self._wanted, "Kubernetes HPA")

    def scale(self, now: float, total: int, current: int) -> int:
        """How many are wanted, for a metric that sums to `total` over `current` workers."""
        within = current > 0 and abs(total / (self.target * current) - 1) <= TOLERANCE
        recommended = max(1, current if within else math.ceil(total / self.target))
        most = self._recommended.add(now, recommended)
        if recommended > current:
            return min(recommended, max(current * MAX_UP_FACTOR, current + MAX_UP_PODS))
        return min(max(current, 1), most)


class Keda:
    """Between 1 and n an HPA on `waiting` requests per worker.

    With `least` 0 it goes to zero after `cooldown_s` in which none waited, and from zero with the first that does.
    """

    def __init__(
        self, slots: int, waiting: float = WAITING_TARGET, cooldown_s: float = COOLDOWN_S, least: int = 1
    ) -> None:
        self.slots, self.cooldown_s, self.least = slots, cooldown_s, least
        self._hpa = Hpa(1, utilisation=waiting)
        self._poll_at = self._active_at = -math.inf
        self._wanted = least

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        if s.now - self._poll_at >= POLL_S:
            self._poll_at = s.now
            waiting = max(0, in_flight(s) - self.slots * ready_count(s))
            if waiting > 0:
                self._active_at = s.now
            if not self.least and s.now - self._active_at >= self.cooldown_s:
                self._wanted = 0
            elif self._wanted == 0:
                self._wanted = 1
            else:
                self._wanted = self._hpa.scale(s.now, waiting, hot_count(s))
        return apply_target(s, memory, self._wanted, "KEDA on waiting requests")
