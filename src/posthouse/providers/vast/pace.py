"""How often the market is called: one token bucket for each call and identity, with the intervals that it documents.

Two providers with one key are one identity, so they share their buckets. An interval begins with the answer to the call
before: when that reached the market nobody here knows, but it was earlier.
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from weakref import WeakValueDictionary

from posthouse.errors import Unavailable

MAX_WAIT_S: Final = 60.0
"""Longest wait for a turn; beyond it the caller is told when to come again."""
SLOW_S: Final = 2.0
"""How long an answer holds up the next call. One that takes longer has reached the market by then."""


class Call(Enum):
    """A kind of call; its value is its name, and the least interval between two in seconds."""

    SEARCH = ("search", 6.0)
    CREATE = ("create", 4.5)
    LIST = ("list", 1.0)
    SHOW = ("show", 2.0)
    MANAGE = ("manage", 1.0)
    DESTROY = ("destroy", 3.0)
    LOGS = ("logs", 1.5)

    @property
    def interval_s(self) -> float:
        return self.value[1]


@dataclass(slots=True)
class _Bucket:
    free_at: float = 0.0
    waiting: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    sooner: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when `free_at` has become earlier."""


class Pace:
    """The turns of one identity."""

    def __init__(self) -> None:
        self._buckets: defaultdict[Call, _Bucket] = defaultdict(_Bucket)

    @asynccontextmanager
    async def turn(self, call: Call, scale: float) -> AsyncIterator[None]:
        """Entered when the call may be made, and left when it is answered. `scale`: of its interval.

        Raises: Unavailable if its turn is too far off.
        """
        bucket, now = self._buckets[call], asyncio.get_running_loop().time
        interval_s = call.interval_s * scale
        wait_s = bucket.free_at - now() + bucket.waiting * interval_s
        if wait_s > MAX_WAIT_S:
            raise Unavailable(f"{call.value[0]}: too many calls wait for their turn at the market", wait_s)
        bucket.waiting += 1
        try:
            async with bucket.turn:
                while (left_s := bucket.free_at - now()) > 0:
                    bucket.sooner.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(left_s):
                            await bucket.sooner.wait()
                mine = bucket.free_at = now() + interval_s + (SLOW_S if interval_s else 0.0)
        finally:
            bucket.waiting -= 1
        try:
            yield
        finally:
            if bucket.free_at == mine:  # no other call was made since, and none was put off
                bucket.free_at = min(mine, now() + interval_s)
                bucket.sooner.set()

    def put_off(self, call: Call, delay_s: float) -> None:
        """No such call is made before so many seconds have passed."""
        bucket = self._buckets[call]
        bucket.free_at = max(bucket.free_at, asyncio.get_running_loop().time() + delay_s)


_paces: WeakValueDictionary[tuple[str, str], Pace] = WeakValueDictionary()


def pace_of(url: str, api_key: str) -> Pace:
    """The turns of who has this key at this market."""
    identity = url, hashlib.sha256(api_key.encode()).hexdigest()
    if (pace := _paces.get(identity)) is None:
        pace = _paces[identity] = Pace()
    return pace
