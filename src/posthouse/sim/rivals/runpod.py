"""RunPod's two scalers of serverless endpoints.

Source: RunPod's documentation of endpoint settings: scaler type and value, idle timeout, active workers.
"""

import math

from posthouse.domain.lifecycle import COMING
from posthouse.domain.plan import Decision, Memory, Snapshot
from posthouse.sim.rivals.idle import Idle
from posthouse.sim.rivals.steer import hot_count, in_flight, steer

SCALER_VALUE = 4.0
"""Requests per worker for the one scaler, seconds of waiting for the other."""
IDLE_S = 5.0


class RunPodByCount:
    """One for each `value` requests, or where `utilisation` is not 0 for that share of what a worker may have."""

    def __init__(
        self, slots: int, value: float = SCALER_VALUE, utilisation: float = 0.0, idle_s: float = IDLE_S
    ) -> None:
        self.value = slots * utilisation or value
        self._idle = Idle(idle_s)

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        wanted = math.ceil(in_flight(s) / self.value)
        return steer(s, memory, max(wanted, self._idle.kept(s)), "RunPod, request count")


class RunPodByDelay:
    """A worker with the first request, and one more whenever a request waits longer than `value` seconds."""

    def __init__(self, value: float = SCALER_VALUE, idle_s: float = IDLE_S) -> None:
        self.value = value
        self._idle = Idle(idle_s)

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        wanted, have = 0, hot_count(s)
        if in_flight(s):
            late = s.demand.oldest_wait_s > self.value and not any(w.state in COMING for w in s.workers)
            wanted = have + (late or not have)
        return steer(s, memory, max(wanted, self._idle.kept(s)), "RunPod, queue delay")
