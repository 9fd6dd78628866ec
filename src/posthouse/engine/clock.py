"""The real clock."""

import time


class SystemClock:
    """Seconds since the epoch, read once and then carried on by the monotonic clock: it never jumps or goes back."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def now(self) -> float:
        return self._offset_s + time.monotonic()
