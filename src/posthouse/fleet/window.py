"""How fast work is offered, over the last seconds."""


class RateWindow:
    """Sums per second in a ring of `span_s` seconds.

    Bucket `t % span_s` holds second `t` and no other: every second that passed since the last touch was cleared, so a
    sum over the ring is a sum over the last `span_s` seconds. Time is O(seconds passed), at most `span_s`, per touch.
    """

    def __init__(self, span_s: int, now: float) -> None:
        self._sums = [0.0] * span_s
        self._second = self._began = int(now)

    def known_s(self, now: float) -> int:
        """For how many seconds it has taken in what came, the present one included."""
        return int(now) - self._began + 1

    def add(self, amount: float, now: float) -> None:
        if now >= self._second + 1:
            self._advance(now)
        self._sums[self._second % len(self._sums)] += amount

    def rate(self, over_s: int, now: float) -> float:
        """Mean per second over the last `over_s` seconds, the present one included as far as it has come."""
        self._advance(now)
        sums, end = self._sums, self._second % len(self._sums) + 1
        begin = end - over_s
        total = sum(sums[begin:end]) if begin >= 0 else sum(sums[begin:]) + sum(sums[:end])
        return total / (over_s - 1 + max(now - self._second, 0.0)) if over_s > 1 else total

    def variance(self, block_s: int, latest: int, now: float) -> float:
        """Of the sums of blocks of `block_s` seconds, over the ring but the `latest` ones, the present included."""
        self._advance(now)
        ring = len(self._sums)
        oldest = (self._second // block_s + 1) * block_s  # where the next block will be
        starts = [second % ring for second in range(oldest, oldest + ring - latest * block_s, block_s)]
        blocks = [sum(self._sums[i : i + block_s]) for i in starts]
        mean = sum(blocks) / len(blocks)
        return sum([(amount - mean) ** 2 for amount in blocks]) / len(blocks)

    def _advance(self, now: float) -> None:
        ring = len(self._sums)
        for second in range(max(self._second + 1, int(now) - ring + 1), int(now) + 1):
            self._sums[second % ring] = 0.0
        self._second = max(self._second, int(now))
