"""Token buckets: so many calls a second for each caller, and more of them at once after a pause."""

from collections.abc import Hashable

BURST_S = 10.0
"""A full bucket has what comes in within this time: our choice, so that programs may ask a lot when they start."""
REMEMBERED = 10_000
"""How many callers are remembered at least; twice as many at most. One that was forgotten has a full bucket."""
MAX_TOKENS = 300.0
"""Most that one call takes: a caller is never put off for longer than it takes to get these."""
GRAIN_S = 1e-3
"""Less than that is not worth a wait, and covers what is lost in rounding."""


class Buckets:
    """A bucket for each caller. It is full at first, with what comes in within `burst_s`, and gets `per_s` tokens a
    second; 0: tokens without end."""

    def __init__(self, per_s: float, burst_s: float = BURST_S) -> None:
        self._each_s = 1.0 / per_s if per_s > 0 else 0.0
        self._slack_s = max(burst_s - self._each_s, 0.0)
        self._longest_s = self._slack_s + (MAX_TOKENS + 1) * self._each_s  # no bucket takes longer to fill
        # When a bucket would be full again: all that need be known of it.
        self._full_at: dict[Hashable, float] = {}
        self._full_at_before: dict[Hashable, float] = {}

    def take(self, caller: Hashable, now: float, tokens: float = 1.0) -> float:
        """Takes the tokens and returns 0; where there is not one, how long until there is, in seconds.

        One that is there is enough, and what more is taken is owed: so a dear call may come, but seldom.
        """
        if not self._each_s:
            return 0.0
        full_at = self._full_at.get(caller)
        if full_at is None:
            if len(self._full_at) >= REMEMBERED:
                self._full_at_before, self._full_at = self._full_at, {}
            full_at = self._full_at_before.get(caller, now)
        if full_at < now:
            full_at = now
        elif (wait_s := full_at - now - self._slack_s) > GRAIN_S:
            if full_at <= now + self._longest_s:
                return wait_s
            full_at = now  # the clock went back
        self._full_at[caller] = full_at + self._each_s * (tokens if tokens < MAX_TOKENS else MAX_TOKENS)
        return 0.0

    def give_back(self, caller: Hashable) -> None:
        """Gives back one of the tokens that the last call took."""
        if caller in self._full_at:
            self._full_at[caller] -= self._each_s

    def __len__(self) -> int:
        return len(self._full_at) + len(self._full_at_before)
