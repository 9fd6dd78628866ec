"""A mean and a maximum over the last seconds, for policies that look at samples."""

from collections import deque


class Samples:
    """Values with their times, for the last `span_s` seconds; one for each second, the latest."""

    def __init__(self, span_s: float) -> None:
        self.span_s = span_s
        self._values: deque[tuple[float, float]] = deque()

    def add(self, now: float, value: float) -> None:
        if self._values and int(self._values[-1][0]) == int(now):
            self._values.pop()
        self._values.append((now, value))
        while self._values[0][0] <= now - self.span_s:
            self._values.popleft()

    def mean(self, now: float, span_s: float) -> float:
        """Of those of the last `span_s` seconds; the one added last is always among them."""
        values = [value for at, value in self._values if at > now - span_s]
        return sum(values) / len(values)

    def most(self) -> float:
        return max(value for _, value in self._values)
