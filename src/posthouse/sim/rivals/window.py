"""A mean and a maximum over the last seconds, for policies that look at samples."""

from collections import deque


class Mean:
    """The mean of counts over the last `span_s` seconds; of each second the latest counts."""

    def __init__(self, span_s: float) -> None:
        self.span_s = span_s
        self._values: deque[tuple[float, int]] = deque()
        self._sum = 0  # whole numbers: it never drifts

    def add(self, now: float, value: int) -> float:
        """The mean with `value` in it, which is always among those that count."""
        values = self._values
        if values and int(values[-1][0]) == int(now):
            self._sum -= values.pop()[1]
        values.append((now, value))
        self._sum += value
        while values[0][0] <= now - self.span_s:
            self._sum -= values.popleft()[1]
        return self._sum / len(values)


class Most:
    """The highest of the values of the last `span_s` seconds."""

    def __init__(self, span_s: float) -> None:
        self.span_s = span_s
        self._values: deque[tuple[float, int]] = deque()  # decreasing: one below a newer one is never the highest

    def add(self, now: float, value: int) -> int:
        """The highest with `value` in it."""
        values = self._values
        while values and values[-1][1] <= value:
            values.pop()
        values.append((now, value))
        while values[0][0] <= now - self.span_s and len(values) > 1:
            values.popleft()
        return values[0][1]


class Periods:
    """The mean of a rate over each period of `span_s` seconds, one after the other."""

    def __init__(self, span_s: float) -> None:
        self.span_s = span_s
        self._period: int | None = None
        self._at = self._work = 0.0

    def add(self, now: float, rate: float) -> list[tuple[int, float]]:
        """Periods that have ended, as their number and mean. `rate` is taken to hold since the last call."""
        ended = []
        if self._period is None:
            self._period, self._at = int(now // self.span_s), now
            self._work = rate * (now - self._period * self.span_s)  # as if it had been so from the beginning
        while now >= (end_at := (self._period + 1) * self.span_s):
            ended.append((self._period, (self._work + rate * (end_at - self._at)) / self.span_s))
            self._period, self._at, self._work = self._period + 1, end_at, 0.0
        self._work += rate * (now - self._at)
        self._at = now
        return ended
