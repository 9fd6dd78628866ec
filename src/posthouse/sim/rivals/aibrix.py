"""AIBrix's pod autoscaler, strategy APA, on requests at once per pod.

Source: vllm-project/aibrix, pkg/controller/podautoscaler: algorithm/apa.go, the defaults of context/context.go, and the
guard for pending replicas of autoscaler.go, which is there since pull request 2671.
"""

import math

from posthouse.domain.decision import Decision, Memory, Snapshot
from posthouse.sim.rivals.target import apply_target, hot_count, in_flight, ready_count
from posthouse.sim.rivals.window import Mean, Most

TICK_S, WINDOW_S = 10.0, 60.0
TOLERANCE = 0.1
MAX_FACTOR = 2
"""Of one step, up and down."""
DOWN_COOLDOWN_S = 300.0


class Aibrix:
    """`utilisation`: the target for each, as a share of what it may have. `cooldown_s`: a lower wish waits for it."""

    def __init__(self, slots: int, utilisation: float = 0.7, cooldown_s: float = DOWN_COOLDOWN_S) -> None:
        self.target = slots * utilisation
        self._seen, self._recommended = Mean(WINDOW_S), Most(cooldown_s)
        self._tick_at = -math.inf
        self._wanted = 1

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        asked, ready = self._seen.add(s.now, in_flight(s)), ready_count(s)
        if s.now - self._tick_at >= TICK_S and ready:  # without a ready pod there is no metric
            self._tick_at = s.now
            current = hot_count(s)
            wanted = max(1, self._guarded(asked, ready, current))
            highest = self._recommended.add(s.now, wanted)
            self._wanted = wanted if wanted > current else min(current, highest)
        return apply_target(s, memory, self._wanted, "AIBrix APA")

    def _guarded(self, asked: float, ready: int, current: int) -> int:
        """What is recommended, once those that are pending have been counted: as nothing, or as full."""
        wanted, pending = self._recommend(asked / ready, current), current - ready
        if pending and wanted > current:
            return min(wanted, max(current, math.ceil(asked / self.target)))
        if pending and wanted < current:
            return max(wanted, min(current, math.ceil(asked / self.target) + pending))
        return wanted

    def _recommend(self, per_worker: float, current: int) -> int:
        ratio = per_worker / self.target
        if ratio > 1 + TOLERANCE:
            return min(math.ceil(current * ratio), MAX_FACTOR * current)
        if ratio < 1 - TOLERANCE:
            return max(math.ceil(current * ratio), current // MAX_FACTOR)
        return current
