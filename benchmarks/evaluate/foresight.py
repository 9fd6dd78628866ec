"""The shipped policy as it would decide if it knew what comes: what a better forecast could gain."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from posthouse.domain.decision import Decision, Memory, Snapshot
from posthouse.fleet.controller import Policy
from posthouse.sim.traffic import Arrival
from posthouse.sim.world import START_AT

MEAN_S, SHORT_S = 60.0, 30.0
"""Over which load is told: as long as the fleet measures it, and longer than its last seconds, for what is known needs
no allowance for chance and must not jump with every request."""


class Foresight:
    """Where the policy is told the load of the last minute and of the last seconds, it is told of the coming ones.

    `horizon_s`: how far it sees the short mean; the time of one start is what help takes.
    """

    def __init__(self, policy: Policy, traffic: Iterable[Arrival], horizon_s: float) -> None:
        arrivals = np.array([*traffic, (np.inf, 0.0)])
        self._at, self._work = arrivals[:, 0], np.concatenate(([0.0], np.cumsum(arrivals[:, 1])))
        self._policy, self._horizon_s = policy, horizon_s

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        t, short_s = s.now - START_AT, max(SHORT_S, s.demand.recent_s)
        short = max(self._mean(t, short_s), self._mean(t + self._horizon_s, short_s))
        mean = self._mean(t, MEAN_S)
        demand = replace(s.demand, rate=mean, long_rate=mean, recent_rate=short, variance=0.0)
        return self._policy(replace(s, demand=demand), memory)

    def _mean(self, begin: float, span_s: float) -> float:
        before, after = np.searchsorted(self._at, (begin, begin + span_s), side="right")
        return float(self._work[after] - self._work[before]) / span_s
