"""What a key may have: requests and work per minute, and requests at once.

Requests and work are token buckets (RFC 2215, 3.6): one of `n` per minute holds `n`, is full at first and fills evenly,
so within `t` seconds never more is had than `n + n / 60 * t`. OpenAI's limits are the same.

Work is taken as it was announced when a request is let in, and settled with what was counted when it ends: what was not
done goes back, and what was done beyond that is owed. All of it is in memory: buckets are full after a start.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from posthouse.errors import BadRequest, TooMany
from posthouse.keys import KeyLimits, KeyUse

MINUTE_S: Final = 60.0
MAX_DEBT_MINUTES: Final = 60.0
"""How much may be owed: a key is refused no longer for what its requests did beyond what they announced."""
MAX_WAIT_S: Final = 1.5
"""How long a request that finds no room waits for others of its key to end: workers tell of ends within a second."""
AT_ONCE_RETRY_S: Final = 1.0
GRAIN: Final = 1e-6
"""Of a unit: covers what is lost in rounding."""

Leave: TypeAlias = Callable[[], None]


class OverLimit(TooMany):
    """The key has no room for a request now."""

    def __init__(self, limit: str, message: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s)
        self.limit = limit
        """`requests`, `work` or `at once`."""


@dataclass(slots=True)
class Bucket:
    """So much per minute; 0: without a bound."""

    per_minute: float
    _level: float = field(init=False)
    _at: float = 0.0

    def __post_init__(self) -> None:
        self._level = self.per_minute

    def change(self, per_minute: float) -> None:
        """Another bound from now on: what was half full is half full."""
        self._level = self._level / self.per_minute * per_minute if self.per_minute else per_minute
        self.per_minute = per_minute

    def left(self, now: float) -> float:
        """What is there; below 0 it is owed."""
        return min(self.per_minute, self._level + max(0.0, now - self._at) / MINUTE_S * self.per_minute)

    def wait_s(self, amount: float, now: float) -> float:
        """How long until so much is there; 0 where it is. It must be at most what a full bucket holds."""
        missing = amount - self.left(now) if self.per_minute else 0.0
        return missing / self.per_minute * MINUTE_S if missing > GRAIN else 0.0

    def take(self, amount: float, now: float) -> None:
        """Takes so much, whether it is there or not; what is below 0 is given back."""
        self._level = max(self.left(now) - amount, -MAX_DEBT_MINUTES * self.per_minute)
        self._at = now


class Meter:
    """What one key has of its limits, on all endpoints of this server."""

    def __init__(self, limits: KeyLimits) -> None:
        self.limits = limits
        self.unsaved = KeyUse()
        """What it used and the store does not know of."""
        self.open = 0
        """Requests that were let in and have not ended."""
        self._requests, self._work = Bucket(limits.requests_per_minute), Bucket(limits.work_per_minute)
        self._line: deque[_Pause] = deque()

    def change(self, limits: KeyLimits) -> None:
        self.limits = limits
        self._requests.change(limits.requests_per_minute)
        self._work.change(limits.work_per_minute)

    def admit(self, work: float, now: float, go: "Go") -> Leave | None:
        """Calls `go` with what the request has of the limits, or with what it exceeds: now, or within `MAX_WAIT_S`.

        Where there is no room for its work, or beside others, it waits for one of those to end: that one has ended may
        not be known here yet. No more wait than may end. Returns what `go` returns, or what is to be called if the
        client leaves before. Raises: BadRequest for a request that never has room.
        """
        if self.limits.work_per_minute and work > self.limits.work_per_minute:
            most = self.limits.work_per_minute
            raise BadRequest(f"cost: is {work:g}, and this key may have {most:g} work per minute: ask for less")
        found = self._reserve(work, now)
        if isinstance(found, Reserved) or found.limit == "requests" or len(self._line) >= self.open:
            return self._tell(found, go)
        pause = _Pause(work, now, go)
        pause.timer = asyncio.get_running_loop().call_later(MAX_WAIT_S, self._too_late, pause)
        self._line.append(pause)

        def leave() -> None:
            if pause.timer is not None:
                pause.timer.cancel()
                self._line.remove(pause)
            elif pause.leave is not None:
                pause.leave()

        return leave

    def settle(self, work: float, done: float | None, now: float) -> None:
        """Ends a request for which `work` was taken. `done`: what was counted; None where it came to nothing."""
        self.open -= 1
        if done is None:
            self._requests.take(-1.0, now)
            self.unsaved.requests -= 1
        beyond = (done or 0.0) - work
        self._work.take(beyond, now)
        self.unsaved.work += beyond
        if self._line:  # not now: the caller is in the middle of handling that end
            asyncio.get_running_loop().call_soon(self._go_on, now)

    def left(self, now: float) -> dict[str, str]:
        """What is left, as headers of OpenAI's API. Source: its guide "Rate limits"."""
        headers: dict[str, str] = {}
        for name, bucket in (("requests", self._requests), ("tokens", self._work)):
            if most := bucket.per_minute:
                left = max(0.0, bucket.left(now))
                full_in_s = (most - left) / most * MINUTE_S
                headers[f"x-ratelimit-limit-{name}"] = f"{most:.0f}"
                headers[f"x-ratelimit-remaining-{name}"] = str(int(left + GRAIN))
                headers[f"x-ratelimit-reset-{name}"] = duration(full_in_s)
        return headers

    def _reserve(self, work: float, now: float) -> "Reserved | OverLimit":
        """Takes what a request needs of each limit, or of none."""
        for name, bucket, amount in (("requests", self._requests, 1.0), ("work", self._work, work)):
            if wait_s := bucket.wait_s(amount, now):
                text = f"this key may have {bucket.per_minute:g} {name} per minute; room for this in {wait_s:.1f} s"
                return OverLimit(name, text, wait_s)
        if 0 < (most := self.limits.at_once) <= self.open:
            return OverLimit("at once", f"this key may have {most} requests at once", AT_ONCE_RETRY_S)
        self.open += 1
        self._requests.take(1.0, now)
        self._work.take(work, now)
        self.unsaved.requests += 1
        self.unsaved.work += work
        return Reserved(self, work)

    def _tell(self, found: "Reserved | OverLimit", go: "Go") -> Leave | None:
        self.unsaved.refused += isinstance(found, OverLimit)
        return go(found)

    def _go_on(self, now: float) -> None:
        """Lets those in that have room now, in their order."""
        while self._line and isinstance(found := self._reserve(self._line[0].work, now), Reserved):
            pause = self._line.popleft()
            self._end(pause, found)

    def _too_late(self, pause: "_Pause") -> None:
        self._line.remove(pause)
        self._end(pause, self._reserve(pause.work, pause.began_at + MAX_WAIT_S))

    def _end(self, pause: "_Pause", found: "Reserved | OverLimit") -> None:
        if pause.timer is not None:
            pause.timer.cancel()
            pause.timer = None
        pause.leave = self._tell(found, pause.go)


@dataclass(slots=True)
class Reserved:
    """What one request has of its key's limits. Call it when the request ends, as `settle` says; once counts."""

    meter: Meter
    work: float
    _over: bool = False

    def __call__(self, done: float | None, now: float) -> None:
        if not self._over:
            self._over = True
            self.meter.settle(self.work, done, now)


Go: TypeAlias = Callable[[Reserved | OverLimit], Leave | None]


@dataclass(slots=True, eq=False)
class _Pause:
    """A request that waits for others of its key to end."""

    work: float
    began_at: float
    go: Go
    timer: asyncio.TimerHandle | None = None
    """None: it waits no more."""
    leave: Leave | None = None


def duration(seconds: float) -> str:
    """A time as OpenAI's API writes it: 120ms, 1.5s, 6m0s."""
    if seconds < 1.0:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest_s = divmod(round(seconds, 1), 60.0)
    return f"{minutes:.0f}m{rest_s:g}s" if minutes else f"{rest_s:g}s"
