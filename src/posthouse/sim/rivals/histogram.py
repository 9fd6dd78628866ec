"""Hybrid-histogram keep-alive, for each rank of worker.

Source: Shahrad et al., Serverless in the Wild, USENIX ATC 2020: a histogram of idle times, bins of a minute over four
hours; unloaded until its 5th percentile and kept until its 99th, with margins of a tenth; a fixed keep-alive where the
histogram is not representative (the coefficient of variation of its bins is below 2). The paper has one histogram for
an application; here the k-th worker has its own, of how long k workers were not needed. Where most idle times are
beyond the histogram the paper fits an ARIMA; here the fixed one holds. The fixed one is the 10 minutes that the paper
compares with.
"""

import math

from posthouse.domain.decision import Decision, Memory, Snapshot
from posthouse.sim.rivals.target import apply_target, in_flight

BIN_S, BINS = 60.0, 240
HEAD, TAIL, MARGIN = 0.05, 0.99, 0.1
REPRESENTATIVE_CV = 2.0
FIXED_S = 600.0


class Rank:
    """How long the k-th worker is not needed, and from when until when it is there meanwhile."""

    def __init__(self, tail: float, fixed_s: float) -> None:
        self.tail, self.fixed_s = tail, fixed_s
        self.window = (0.0, fixed_s)
        """Seconds since it was needed last."""
        self.needed, self._idle_at = True, 0.0
        self._counts = [0] * BINS
        self._total = self._squares = self._beyond = 0

    def stays(self, now: float, needed: bool) -> bool:
        """Whether it is wanted now."""
        if needed and not self.needed:
            self.learn(now - self._idle_at)
        elif self.needed and not needed:
            self._idle_at = now
        self.needed = needed
        return needed or self.window[0] <= now - self._idle_at < self.window[1]

    def learn(self, idle_s: float) -> None:
        """Counts an idle time in, and draws the window again."""
        at = int(idle_s / BIN_S)
        if at >= BINS:
            self._beyond += 1
        else:
            self._squares += 2 * self._counts[at] + 1
            self._counts[at] += 1
            self._total += 1
        mean = self._total / BINS
        spread = math.sqrt(max(0.0, self._squares / BINS - mean * mean))
        if self._beyond > self._total or spread < REPRESENTATIVE_CV * mean:
            self.window = (0.0, self.fixed_s)
        else:
            head, tail = self._percentile(HEAD), self._percentile(self.tail) + 1
            self.window = (head * BIN_S * (1 - MARGIN), tail * BIN_S * (1 + MARGIN))

    def _percentile(self, share: float) -> int:
        """The bin in which it is."""
        below = 0
        for at, count in enumerate(self._counts):
            below += count
            if below >= share * self._total:
                return at
        return BINS - 1


class Histogram:
    """The k-th worker is needed while there are more requests than k - 1 workers shall take.

    `tail`: the percentile until which it is kept. `fixed_s`: the keep-alive where the histogram does not say.
    """

    def __init__(self, slots: int, utilisation: float = 1.0, tail: float = TAIL, fixed_s: float = FIXED_S) -> None:
        self.target, self.tail, self.fixed_s = slots * utilisation, tail, fixed_s
        self._ranks: list[Rank] = []

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        needed = min(math.ceil(in_flight(s) / self.target), s.endpoint.scaling.max_workers)
        while len(self._ranks) < needed:
            self._ranks.append(Rank(self.tail, self.fixed_s))
        wanted = sum([rank.stays(s.now, k < needed) for k, rank in enumerate(self._ranks)])
        return apply_target(s, memory, wanted, "hybrid histogram")
