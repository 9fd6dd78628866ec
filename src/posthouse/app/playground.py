"""A request that somebody sends from the console to try an endpoint: the server is a client of its own `/route/`.

Answers of models do not pass through this process elsewhere; here few may, each with a bound.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from posthouse.client import AsyncClient, ClientError
from posthouse.client.answers import Waiting
from posthouse.client.events import ServerEvent
from posthouse.errors import TooMany
from posthouse.wire.rows import Tried

TIMEOUT_S: Final = 900.0
"""How long one may wait for its worker, and for each piece of its answer."""
MAX_AT_ONCE: Final = 16
MAX_EVENT_BYTES: Final = 2**20
MAX_ANSWER: Final = 8 * 2**20
"""Most characters of an answer that are passed on."""
MAX_ERROR: Final = 2000
"""Most characters of what went wrong."""


@dataclass(slots=True)
class Playground:
    """Sends requests to endpoints. `url`: of this server, as this machine reaches it. `ca`: the root of its
    certificate, where it is its own."""

    url: str
    ca: Path | None = None
    _open: int = field(default=0)

    async def ask(
        self, endpoint: str, key: str, path: str, payload: object, cost: float | None
    ) -> AsyncGenerator[Tried, None]:
        """What becomes of a request, event by event. `key`: of the endpoint. Raises: TooMany."""
        if self._open >= MAX_AT_ONCE:
            raise TooMany(f"{MAX_AT_ONCE} requests are being tried on this server: wait for one to end", 2.0)
        self._open += 1
        try:
            async with aclosing(self._events(endpoint, key, path, payload, cost)) as events:
                async for one in events:
                    yield one
        finally:
            self._open -= 1

    async def _events(
        self, endpoint: str, key: str, path: str, payload: object, cost: float | None
    ) -> AsyncGenerator[Tried, None]:
        began = time.monotonic()
        queue: asyncio.Queue[Tried | None] = asyncio.Queue()  # MAX_ANSWER bounds it

        def tell(kind: str, text: str = "", ready_in_s: float = 0.0) -> None:
            at_s = round(time.monotonic() - began, 3)
            queue.put_nowait(Tried(kind=kind, text=text, ready_in_s=ready_in_s, at_s=at_s))

        async def send() -> None:
            size = 0
            try:
                async with (
                    AsyncClient(self.url, key, TIMEOUT_S, self.ca, MAX_EVENT_BYTES) as client,
                    aclosing(client.stream(endpoint, path, payload, cost, on_waiting=waits)) as answer,
                ):
                    async for event in answer:
                        if not size:
                            tell("begins")
                        text = _text(event)
                        size += len(text) + 1
                        if size > MAX_ANSWER:
                            tell("fails", "the answer is too long to be shown here")
                            return
                        tell("piece", text)
                tell("ends")
            except ClientError as error:
                tell("fails", str(error)[:MAX_ERROR])

        def waits(waiting: Waiting) -> None:
            tell("waits", waiting.status, waiting.ready_in_s)

        sending = asyncio.create_task(send())
        sending.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (one := await queue.get()) is not None:
                yield one
            await sending
        finally:
            sending.cancel()
            await asyncio.wait([sending])


def _text(event: Any) -> str:
    """An event of an answer as text: JSON where it was that."""
    data = event.data if isinstance(event, ServerEvent) else event
    if isinstance(data, bytes):
        return data.decode(errors="replace")
    return data if isinstance(data, str) else msgspec.json.encode(data).decode()
