"""The shipped policy as it would decide if it knew what comes: what a better forecast could gain."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from posthouse.domain.plan import Decision, Memory, Snapshot
from posthouse.sim.traffic import Arrival
from posthouse.sim.world import START_AT, Policy

BLOCK_S, STEP_S = 30.0, 10.0
"""Capacity is for the highest mean of a block, as it lies anywhere in what is seen, in steps."""


class Foresight:
    """`horizon_s`: how far it sees; the time of one start is what help takes."""

    def __init__(self, policy: Policy, traffic: Iterable[Arrival], horizon_s: float) -> None:
        arrivals = np.array([*traffic, (np.inf, 0.0)])
        self._at, self._work = arrivals[:, 0], np.concatenate(([0.0], np.cumsum(arrivals[:, 1])))
        self._policy, self._begins = policy, np.arange(0.0, horizon_s + STEP_S, STEP_S)

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        begins = s.now - START_AT + self._begins
        before, after = np.searchsorted(self._at, (begins, begins + BLOCK_S), side="right")
        coming = float((self._work[after] - self._work[before]).max()) / BLOCK_S
        return self._policy(replace(s, demand=replace(s.demand, rate=coming, recent_rate=coming)), memory)
