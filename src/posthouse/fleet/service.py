"""How long a request takes when nothing is in its way."""

from collections import deque

from posthouse.policy.tuning import TUNING

SERVICE_RANK = 0.1
"""Which of them in order of time: few enough are faster that some that failed at once, and say they did well, do not
matter; too low an estimate only means that more counts as queue."""


class ServiceTimes:
    """What the latest requests took: as long as one that came to an idle worker.

    Those that came to a busy one may have queued: they show only that it is no more. Never longer than any took, so
    that tiny costs do not hide a queue of large ones.
    """

    def __init__(self) -> None:
        self.service_s = self.slot_unit_s = 0.0
        self._took: deque[tuple[float, float]] = deque(maxlen=TUNING.samples)  # s for each unit of work, s
        self._took_alone: deque[tuple[float, float]] = deque(maxlen=TUNING.samples)
        self._unit_s = self._longest_s = 0.0
        self._is_new = False
        """There are some that `_unit_s` and `_longest_s` do not know of."""

    def add(self, cost: float, took_s: float, alone: bool) -> None:
        """A request of some cost was done. `alone`: it came to an idle worker."""
        self._is_new = True
        self._took.append((took_s / cost, took_s))
        if alone:
            self._took_alone.append((took_s / cost, took_s))

    def learn(self, work: float, count: int) -> bool:
        """Estimates from what is open how long a request takes; True if that is another number of slots by now."""
        service_s = self.of(work, count)
        if service_s is None:
            return False
        self.service_s, unit_s = service_s, service_s * count / work
        changed = abs(unit_s - self.slot_unit_s) > TUNING.tolerance * self.slot_unit_s
        if changed:
            self.slot_unit_s = unit_s
        return changed

    def of(self, work: float, count: int) -> float | None:
        """How long each of `count` requests, `work` in all, takes by itself. Units: seconds. None: not known."""
        if work <= 0 or not self._took_alone:
            return None
        if self._is_new:
            self._is_new = False
            both = self._took, self._took_alone
            self._unit_s = min(sorted(took)[int(SERVICE_RANK * len(took))][0] for took in both)
            self._longest_s = max(took_s for _, took_s in self._took_alone)
        return min(self._unit_s * work / count, self._longest_s)
