"""What happens, as a stream of server-sent events: numbered, bounded, encoded once for all viewers."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from posthouse.domain.endpoint import AccountId, EndpointId
from posthouse.errors import Busy
from posthouse.waiting import is_set_within
from posthouse.wire.rows.events import Happening, Lost

MAX_KEPT = 5_000
"""Events kept for viewers that reconnect or are slow."""
MAX_KEPT_BYTES = 8_000_000
"""The same in bytes, as encoded: a decision has some 3 kB."""
MAX_VIEWERS = 100
"""Most viewers at once."""
KEEP_ALIVE_S = 15.0
"""Without an event for this long, a comment tells both sides and every proxy that the stream lives."""
BATCH_S = 0.1
"""How long a viewer waits for more after the first event, so that a burst is one write."""
PAINT_S = 0.25
"""The same for a browser, which paints no sooner."""
MAX_BATCH = 500
"""Most events in one write."""
RETRY_MS = 2_000
"""When a browser asks again after the stream has ended."""

KEEP_ALIVE = b": keep-alive\n\n"
BEAT = b"event: beat\ndata: {}\n\n"
"""The same for a browser, whose API hides comments."""


@dataclass(slots=True)
class _Entry:
    number: int
    account_id: AccountId
    endpoint_id: EndpointId
    encoded: bytes


@dataclass(slots=True)
class EventStream:
    """The latest events of every endpoint, and how many viewers there are."""

    last: int
    """The number of the latest event. It begins with milliseconds since the epoch, so that it rises over restarts."""
    viewers: int = 0
    _kept: deque[_Entry] = field(default_factory=deque)
    _kept_bytes: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: bool = False

    def publish(self, account_id: AccountId, happening: Happening) -> None:
        """Adds an event of an endpoint of this account. Never waits for a viewer."""
        self.last += 1
        encoded = frame(self.last, happening)
        self._kept.append(_Entry(self.last, account_id, EndpointId(happening.endpoint_id), encoded))
        self._kept_bytes += len(encoded)
        while len(self._kept) > MAX_KEPT or self._kept_bytes > MAX_KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popleft().encoded)
        self._wake()

    def close(self) -> None:
        """Ends every stream, and refuses new ones."""
        self._closed = True
        self._wake()

    def watch(
        self,
        sees: AccountId | None,
        endpoint_id: EndpointId | None = None,
        after: int | None = None,
        allowed: Callable[[], bool] = lambda: True,
        beat_s: float | None = None,
    ) -> AsyncIterator[bytes]:
        """The stream of what happens to the account's endpoints, or to one of them, from now on or after an event.

        It ends, after a `lost` event, for a viewer so slow that events are lost, and when `allowed` says no. `beat_s`:
        after this long without an event it sends one as a sign of life; by default it sends a comment, and later.

        Raises: Busy if too many watch.
        """
        if self.viewers >= MAX_VIEWERS or self._closed:
            raise Busy(f"{self.viewers} streams are open, and no more are served now: ask again", KEEP_ALIVE_S)
        return self._watch(sees, endpoint_id, self.last if after is None else min(after, self.last), allowed, beat_s)

    async def _watch(
        self,
        sees: AccountId | None,
        endpoint_id: EndpointId | None,
        after: int,
        allowed: Callable[[], bool],
        beat_s: float | None,
    ) -> AsyncIterator[bytes]:
        self.viewers += 1
        quiet_s, sign, batch_s = (KEEP_ALIVE_S, KEEP_ALIVE, BATCH_S) if beat_s is None else (beat_s, BEAT, PAINT_S)
        try:
            yield b"retry: %d\n\n" % RETRY_MS
            if lost := self._lost(after):
                yield lost  # while nobody watched: said once, and the stream goes on with what is kept
                after = self._oldest - 1
            while not self._closed and allowed():
                if lost := self._lost(after):
                    yield lost
                    return
                news = self._news
                batch, after = self._after(after, sees, endpoint_id)
                if batch:
                    yield batch
                elif after == self.last:
                    if not await is_set_within(news, quiet_s):
                        yield sign
                    await asyncio.sleep(batch_s)
        finally:
            self.viewers -= 1

    def _after(self, after: int, sees: AccountId | None, endpoint_id: EndpointId | None) -> tuple[bytes, int]:
        """The next events that a viewer may see, encoded, and the number of the last one that was looked at."""
        new = min(self.last - after, len(self._kept))
        found = list(islice(self._kept, len(self._kept) - new, len(self._kept) - new + MAX_BATCH))
        shown = [e.encoded for e in found if sees in (None, e.account_id) and endpoint_id in (None, e.endpoint_id)]
        return b"".join(shown), found[-1].number if found else self.last

    def _lost(self, after: int) -> bytes:
        """What to tell a viewer that has seen all up to `after`, where what followed is kept no more; else empty."""
        if after >= self._oldest - 1:
            return b""
        return b"event: %s\ndata: %s\n\n" % (Lost.kind.encode(), msgspec.json.encode(Lost(oldest=self._oldest)))

    @property
    def _oldest(self) -> int:
        """The number of the oldest event that is kept, or of the next one if none is."""
        return self._kept[0].number if self._kept else self.last + 1

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def frame(number: int, happening: Happening) -> bytes:
    """One event as the stream has it. JSON has no line break of its own, so its data is one line."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, happening.kind.encode(), msgspec.json.encode(happening))
