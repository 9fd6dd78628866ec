"""As many workers all the time: for the mean, the 99th percentile or the highest minute of traffic known before."""

import math
from collections.abc import Iterable

from posthouse.domain.decision import Decision, Memory, Snapshot
from posthouse.sim.rivals.target import apply_target
from posthouse.sim.traffic import Arrival

BIN_S = 60.0


class Static:
    """`share`: of the minutes that shall have enough; all of them unless it is said; 0 stands for the mean."""

    def __init__(self, traffic: Iterable[Arrival], perf: float, share: float = 1.0) -> None:
        minutes: dict[int, float] = {}
        for t, work in traffic:
            minutes[int(t / BIN_S)] = minutes.get(int(t / BIN_S), 0.0) + work
        loads = sorted(minutes.get(i, 0.0) / BIN_S for i in range(max(minutes, default=0) + 1))
        load = loads[min(len(loads) - 1, math.ceil(share * len(loads)) - 1)] if share else sum(loads) / len(loads)
        self.wanted = max(1, math.ceil(load / perf))

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        return apply_target(s, memory, self.wanted, "static")
