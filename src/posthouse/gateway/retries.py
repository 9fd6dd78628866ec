"""How many requests may be tried again: retries must not double the load of workers that fail because of it."""

import time
from collections.abc import Callable
from typing import Final

SHARE: Final = 0.2
"""Retries for each request."""
PER_S: Final = 1.0
"""Retries beyond that, per second: where little is asked, each may be tried again."""
MAX_AT_ONCE: Final = 100.0
"""So many at once after a quiet time."""


class Retries:
    """The budget of one gateway."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = MAX_AT_ONCE
        self._at = clock()

    def began(self) -> None:
        """A request has come."""
        self._left = min(MAX_AT_ONCE, self._left + SHARE)

    def take(self) -> bool:
        """Whether one may be tried again now; that uses it up."""
        now = self._clock()
        self._left, self._at = min(MAX_AT_ONCE, self._left + (now - self._at) * PER_S), now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
