"""The shipped policy as it would decide if it knew what comes: what a better forecast could gain."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from posthouse.domain.plan import Decision, Memory, Snapshot
from posthouse.sim.traffic import Arrival
from posthouse.sim.world import START_AT, Policy

LEAST_HORIZON_S = 60.0
"""Its load is a mean over at least this, as it is where it is measured."""


class Foresight:
    """`horizon_s`: how far it sees; the time of one start is what help takes."""

    def __init__(self, policy: Policy, traffic: Iterable[Arrival], horizon_s: float) -> None:
        arrivals = np.array([*traffic, (np.inf, 0.0)])
        self._at, self._work = arrivals[:, 0], np.concatenate(([0.0], np.cumsum(arrivals[:, 1])))
        self._policy, self._horizon_s = policy, max(horizon_s, LEAST_HORIZON_S)

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        t = s.now - START_AT
        now, then = np.searchsorted(self._at, (t, t + self._horizon_s), side="right")
        coming = float(self._work[then] - self._work[now]) / self._horizon_s
        return self._policy(replace(s, demand=replace(s.demand, rate=coming, recent_rate=coming)), memory)
