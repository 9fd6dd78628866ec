"""Requests from many clients at a set rate, each followed to its end."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

FIRST_POLL_S, MAX_POLL_S = 1.0, 5.0
"""How long a client sleeps that was told to wait: the protocol's own at first exactly so long, then anything below."""
AGAIN_S = 0.2
"""After which a patient client calls again."""
CALL_TIMEOUT_S = 10.0
"""How long the protocol's own client waits for an answer to `/route/`."""


@dataclass
class Traffic:
    url: str
    key: str
    payload: dict[str, Any] = field(default_factory=dict)
    cost: float = 1.0
    endpoint: str = "drill"
    patient: bool = False
    """Whether a client whose call finds no server asks again: what a crash does to such calls is known."""
    most_open: int = 10_000
    """Requests under way beyond which none is begun: the load would break down, and not the server."""
    asked: int = 0
    routed: int = 0
    waited: int = 0
    """Answers that told a request to wait."""
    refused: list[str] = field(default_factory=list)
    """What calls for a worker met that was no answer."""
    broken: list[str] = field(default_factory=list)
    """What happened to requests that had been given a worker."""
    answered_at: list[float] = field(default_factory=list)
    took_s: list[tuple[float, float]] = field(default_factory=list)
    """When each request that was answered began, and how long it took in all."""
    by_worker: Counter[str] = field(default_factory=Counter)
    """Requests that each worker, by its address, works on."""
    _requests: set[asyncio.Task[None]] = field(default_factory=set)

    async def send(self, http: aiohttp.ClientSession, rate: float, span_s: float) -> None:
        """Begins requests at `rate` per second for `span_s`, however long each takes."""
        began, sent = time.monotonic(), 0
        while (passed_s := time.monotonic() - began) < span_s:
            while sent < passed_s * rate:
                if self.open < self.most_open:
                    self.begin(http)
                sent += 1
            await asyncio.sleep(0.01)

    def begin(self, http: aiohttp.ClientSession, answer: dict[str, Any] | None = None) -> None:
        """Begins a request; or goes on with one whose first call was given this answer."""
        request = asyncio.create_task(self._one(http, answer))
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)

    def answered(self, since: float, until: float) -> float:
        """Requests answered per second."""
        return sum(since <= at < until for at in self.answered_at) / (until - since)

    async def finished(self, timeout_s: float) -> int:
        """Waits for those that are on their way, and gives up the rest; how many these were."""
        if self._requests:
            await asyncio.wait(set(self._requests), timeout=timeout_s)
        left = list(self._requests)
        for request in left:
            request.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return len(left)

    @property
    def open(self) -> int:
        return len(self._requests)

    def ask(self, idx: int) -> dict[str, Any]:
        """The body of a `/route/` call."""
        return {"endpoint": self.endpoint, "api_key": self.key, "cost": self.cost, "request_idx": idx}

    async def _one(self, http: aiohttp.ClientSession, answer: dict[str, Any] | None) -> None:
        self.asked += 1
        idx, sleep_s, began = 0, FIRST_POLL_S, time.monotonic()
        while True:
            answer = answer or await self._route(http, idx)
            if answer is None:
                return
            if "url" in answer:
                break
            self.waited += 1
            idx, answer = answer.get("request_idx", idx), None
            await asyncio.sleep(sleep_s)
            sleep_s = random.uniform(0.1, MAX_POLL_S)
        self.routed += 1
        place = answer["url"]
        self.by_worker[place] += 1
        try:
            body = {"auth_data": answer, "payload": self.payload}
            async with http.post(answer["url"] + "/generate", json=body) as reply:
                await reply.read()
                if reply.status != 200:
                    self.broken.append(f"status {reply.status} of a worker")
                    return
            now = time.monotonic()
            self.answered_at.append(now)
            self.took_s.append((began, now - began))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.broken.append(repr(error))
        finally:
            self.by_worker[place] -= 1
            if not self.by_worker[place]:
                del self.by_worker[place]

    async def _route(self, http: aiohttp.ClientSession, idx: int) -> dict[str, Any] | None:
        ask = self.ask(idx)
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
        while True:
            try:
                async with http.post(f"{self.url}/route/", json=ask, timeout=timeout) as reply:
                    if reply.status == 200:
                        found: dict[str, Any] = await reply.json()
                        return found
                    self.refused.append(f"status {reply.status}: {(await reply.text())[:200]}")
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                if not self.patient:
                    self.refused.append(repr(error))
            if not self.patient:
                return None
            await asyncio.sleep(AGAIN_S)


def session() -> aiohttp.ClientSession:
    """A session without a bound of connections, as many clients have together."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None, sock_read=120)
    )
