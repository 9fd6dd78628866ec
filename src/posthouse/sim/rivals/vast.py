"""The rule that Vast.ai documents for its serverless endpoints, taken at its word.

Source: docs.vast.ai, parameters of endpoints: capacity for the anticipated load / target_util, min_load, and the
reserve that `steer` keeps. How load is anticipated and how long capacity is held is not documented: here the mean of
the last minute, and five minutes.
"""

import math

from posthouse.domain.plan import Decision, Memory, Snapshot
from posthouse.policy.capacity import expected_wait_s, ready, supply
from posthouse.sim.rivals.steer import ready_count, steer
from posthouse.sim.rivals.window import Samples

HOLD_S = 300.0


class Vast:
    """`perf`: work per second of a worker, until one has been measured."""

    def __init__(self, perf: float) -> None:
        self.perf = perf
        self._needs = Samples(HOLD_S)

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        scaling, team = s.endpoint.scaling, ready(s.workers)
        perf = supply(team, s.learned) / len(team) if team else self.perf
        wanted = math.ceil(max(s.demand.rate, scaling.min_load) / scaling.target_util / perf)
        if s.demand.waiting > 0:
            wanted = max(wanted, 1)
        if expected_wait_s(s.demand, supply(team, s.learned)) > scaling.target_queue_time:
            wanted = max(wanted, ready_count(s) + 1)
        self._needs.add(s.now, wanted)
        return steer(s, memory, int(self._needs.most()), "documented rule of Vast.ai")
