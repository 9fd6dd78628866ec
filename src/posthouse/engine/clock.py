"""The real clock."""

import time

STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""On Linux it goes on while the machine is suspended; elsewhere the time of a suspension is not counted."""
AHEAD_S = 120.0
"""How far a clock starts beyond the latest time that is known, where the machine's clock is behind that: at least as
much as may have passed since it was written down, which is once a minute."""


class SystemClock:
    """Seconds since the epoch, read once and then carried on by a steady clock: it never jumps or goes back."""

    def __init__(self, latest_at: float = 0.0) -> None:
        """`latest_at`: the latest time that an earlier life is known to have seen."""
        start = self.wall()
        self.behind_s = max(0.0, latest_at - start)
        """How far the machine's clock was behind what is known: it was set back, or was ahead before."""
        if self.behind_s:
            start = latest_at + AHEAD_S
        self._offset_s = start - time.clock_gettime(STEADY)

    def now(self) -> float:
        return self._offset_s + time.clock_gettime(STEADY)

    def wall(self) -> float:
        return time.time()
