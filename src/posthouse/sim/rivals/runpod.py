"""RunPod's two scalers of serverless endpoints.

Source: RunPod's documentation of endpoint settings: scaler type and value, idle timeout, active workers. Which worker a
request goes to is not documented: here a worker is idle while fewer, filled one after the other, would do.
"""

import math

from posthouse.domain.decision import Decision, Memory, Snapshot
from posthouse.sim.rivals.target import apply_target, hot_count, in_flight, ready_count
from posthouse.sim.rivals.window import Most

SCALER_VALUE = 4.0
"""Requests per worker for the one scaler, seconds of waiting for the other."""
IDLE_S = 5.0


class RunPodByCount:
    """One for each `value` requests, or where `utilisation` is not 0 for that share of what a worker may have."""

    def __init__(
        self, slots: int, value: float = SCALER_VALUE, utilisation: float = 0.0, idle_s: float = IDLE_S
    ) -> None:
        self.value = slots * utilisation or value
        self._needed = Most(idle_s)

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        wanted = self._needed.add(s.now, math.ceil(in_flight(s) / self.value))
        return apply_target(s, memory, wanted, "RunPod, request count")


class RunPodByDelay:
    """A worker with the first request, and one more whenever a request waits longer than `value` seconds."""

    def __init__(self, slots: int, value: float = SCALER_VALUE, idle_s: float = IDLE_S) -> None:
        self.slots, self.value = slots, value
        self._needed = Most(idle_s)

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        asked, have = in_flight(s), hot_count(s)
        needed = self._needed.add(s.now, math.ceil(asked / self.slots))
        if have > ready_count(s):  # one is on its way
            wanted = have
        elif s.demand.oldest_wait_s > self.value or (asked and not have):
            wanted = have + 1
        else:
            wanted = min(needed, have)
        return apply_target(s, memory, wanted, "RunPod, queue delay")
