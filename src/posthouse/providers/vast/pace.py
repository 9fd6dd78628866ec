"""How often the market is called: one token bucket for each call and identity, with the intervals that it documents.

Two providers with one key are one identity, so they share their buckets.
"""

import asyncio
import hashlib
from collections import defaultdict
from enum import Enum
from typing import Final
from weakref import WeakValueDictionary

from posthouse.domain.errors import Unavailable

MAX_WAIT_S: Final = 60.0
"""Longest wait for a turn; beyond it the caller is told when to come again."""
MARGIN: Final = 1.05
"""How much longer than asked for an interval is: clocks differ, and calls overtake each other on their way."""


class Call(Enum):
    """A kind of call; its value is the least interval between two, in seconds."""

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


class Pace:
    """The turns of one identity."""

    def __init__(self) -> None:
        self._free_at: defaultdict[Call, float] = defaultdict(float)

    async def turn(self, call: Call, scale: float) -> None:
        """Returns when the call may be made. `scale`: of its interval. Raises: Unavailable if that is too far off."""
        now = asyncio.get_running_loop().time()
        at = max(now, self._free_at[call])
        if at - now > MAX_WAIT_S:
            raise Unavailable(f"{call.value[0]}: too many calls wait for their turn at the market", at - now)
        self._free_at[call] = at + call.interval_s * scale * MARGIN
        if at > now:
            await asyncio.sleep(at - now)

    def put_off(self, call: Call, delay_s: float) -> None:
        """No such call is made before so many seconds have passed."""
        at = asyncio.get_running_loop().time() + delay_s
        self._free_at[call] = max(self._free_at[call], at)


_paces: WeakValueDictionary[tuple[str, str], Pace] = WeakValueDictionary()


def pace_of(url: str, api_key: str) -> Pace:
    """The turns of who has this key at this market."""
    identity = url, hashlib.sha256(api_key.encode()).hexdigest()
    if (pace := _paces.get(identity)) is None:
        pace = _paces[identity] = Pace()
    return pace
