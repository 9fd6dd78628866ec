"""RunPod's two scalers of serverless endpoints.

Source: RunPod's documentation of endpoint settings: scaler type and value, idle timeout, active workers.
"""

import math

from posthouse.domain.lifecycle import COMING
from posthouse.domain.plan import Decision, Memory, Snapshot
from posthouse.domain.worker import WorkerId
from posthouse.policy.capacity import ready
from posthouse.sim.rivals.steer import hot_count, in_flight, ready_count, steer

SCALER_VALUE = 4.0
"""Requests per worker for the one scaler, seconds of waiting for the other."""
IDLE_S = 5.0


class RunPod:
    """`by_delay`: a worker more whenever a request waits longer than `value` seconds; else one per `value` requests."""

    def __init__(self, by_delay: bool = False, value: float = SCALER_VALUE) -> None:
        self.by_delay, self.value = by_delay, value
        self._idle_since: dict[WorkerId, float] = {}

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        busy = self._busy(s)
        asked = in_flight(s)
        if self.by_delay:
            late = s.demand.oldest_wait_s > self.value and not any(w.state in COMING for w in s.workers)
            more = 1 if asked and (late or hot_count(s) == 0) else 0
            wanted = (hot_count(s) if asked else 0) + more
        else:
            wanted = math.ceil(asked / self.value)
        return steer(s, memory, max(wanted, busy), f"RunPod, {'queue delay' if self.by_delay else 'request count'}")

    def _busy(self, s: Snapshot) -> int:
        """Workers that have, or had until less than the idle timeout ago, a request."""
        self._idle_since = {w.id: self._idle_since.get(w.id, s.now) for w in ready(s.workers) if w.id not in s.busy}
        return ready_count(s) - sum(s.now - since >= IDLE_S for since in self._idle_since.values())
