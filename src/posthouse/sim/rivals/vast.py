"""The rule that Vast.ai documents for its serverless endpoints, taken at its word.

Source: docs.vast.ai, parameters of endpoints: capacity for the anticipated load / target_util, min_load,
inactivity_timeout before zero, and the reserve that `apply_target` keeps. How load is anticipated and how long
capacity is held is not documented: here the mean of the last minute, and five minutes.
"""

import math

from posthouse.domain.decision import Decision, Memory, Snapshot
from posthouse.policy.capacity import ready, supply
from posthouse.policy.needs import expected_wait_s, least_hot
from posthouse.sim.rivals.target import apply_target
from posthouse.sim.rivals.window import Most

HOLD_S = 300.0


class Vast:
    """`perf`: work per second of a worker, until one has been measured.

    `utilisation`: in place of the endpoint's `target_util`, where it is not 0.
    """

    def __init__(self, perf: float, utilisation: float = 0.0, hold_s: float = HOLD_S) -> None:
        self.perf, self.utilisation = perf, utilisation
        self._needs = Most(hold_s)

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        scaling, workers = s.endpoint.scaling, ready(s.workers)
        power = supply(workers, s.estimates)
        perf = power / len(workers) if workers else self.perf
        utilisation = self.utilisation or scaling.target_util
        wanted = math.ceil(max(s.demand.rate, scaling.min_load) / utilisation / perf)
        wanted = max(wanted, least_hot(scaling, s.demand, s.now))
        if expected_wait_s(s.demand, power) > scaling.target_queue_time:
            wanted = max(wanted, len(workers) + 1)
        return apply_target(s, memory, self._needs.add(s.now, wanted), "documented rule of Vast.ai")
