"""One request: a route, a worker, another worker where that fails, an answer."""

import asyncio
import math
import random
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Generic, NamedTuple, TypeVar

import aiohttp
import msgspec

from posthouse.client.answers import Answer, Routed, Waiting
from posthouse.client.errors import BadRequest, ClientError, TimedOut, Unreachable, WorkerFailed
from posthouse.client.events import MAX_EVENT_BYTES, events
from posthouse.client.http import Http, reason

T = TypeVar("T")

MAX_BEGUN = 2  # how often a request is begun: one that kills a model must not take down a fleet
BACK_OFF_S = (0.25, 5.0)  # before the first retry, doubled each time, and at most
POLL_S = (0.2, 1.0)  # until a waiting request asks again; the server has held it for a while already

Body = Callable[[Routed], object]
OnWaiting = Callable[[Waiting], None]


class Job(NamedTuple):
    """What to send, and how long to try."""

    endpoint: str
    path: str
    body: Body
    cost: float | None
    timeout_s: float | None
    retries: int
    on_waiting: OnWaiting | None
    routed: Routed | None = None
    """The worker that it must go to."""
    prefer: Mapping[str, object] | None = None
    """Which workers would be best for it; see `wire.route.Prefer`."""


class Started(NamedTuple, Generic[T]):
    """The first good answer of a worker."""

    answer: T
    routed: Routed
    wait_s: float
    attempts: int


class Requests:
    """Sends jobs. `timeout_s` bounds each that states none. `estimate`: ask when a worker is expected."""

    def __init__(
        self, http: Http, timeout_s: float, max_event_bytes: int = MAX_EVENT_BYTES, estimate: bool = False
    ) -> None:
        self._http = http
        self._estimate = estimate
        self._max_event_bytes = max_event_bytes
        self.timeout_s = timeout_s

    async def route(
        self, endpoint: str, cost: float | None, request_idx: int = 0, prefer: Mapping[str, object] | None = None
    ) -> Routed | Waiting:
        """A worker of the endpoint, or that none is free. Without a cost the server takes what is usual there."""
        if not (cost is None or (isinstance(cost, int | float) and 0 <= cost < math.inf)):
            raise BadRequest(f"cost is {cost!r}; it must be a number of at least 0")
        body = {"endpoint": endpoint, "request_idx": request_idx} | ({} if cost is None else {"cost": cost})
        if self._estimate:
            body["estimate"] = True
        if prefer:
            body["prefer"] = prefer
        return self.read(await self._http.raw("POST", "/route/", body))

    def read(self, raw: bytes) -> Routed | Waiting:
        """What `/route/` has answered. Raises: ClientError."""
        reply = self._http.decoded("POST /route/", raw)
        try:
            if "url" in reply:
                more = {name: reply.pop(name) for name in ("limits", "model") if name in reply}  # not for the worker
                return msgspec.convert({**reply, "auth_data": reply, **more}, Routed)
            return msgspec.convert(reply, Waiting)
        except (TypeError, msgspec.ValidationError) as error:
            raise ClientError(f"{self._http.url}/route/ gave an answer of another protocol: {error}", 200) from error

    async def answer(self, job: Job) -> Answer:
        """The whole answer."""
        begun = await self.begin(job, whole=True)
        response, body = begun.answer
        return Answer(
            status=response.status,
            body=body,
            content_type=response.content_type,
            worker_url=begun.routed.url,
            wait_s=begun.wait_s,
            attempts=begun.attempts,
        )

    async def events(self, job: Job) -> AsyncGenerator[Any, None]:
        """The events of the answer as they come."""
        begun = await self.begin(job, whole=False)
        response, _ = begun.answer
        try:
            chunks = response.content.iter_any()
            async with aclosing(events(response.content_type, chunks, self._max_event_bytes)) as answer:
                async for event in answer:
                    yield event
        except (aiohttp.ClientError, ConnectionError, ValueError) as error:
            raise WorkerFailed(f"worker {begun.routed.url}{job.path} broke off: {reason(error)}") from error
        finally:
            response.close()

    async def begin(self, job: Job, *, whole: bool) -> Started[tuple[aiohttp.ClientResponse, bytes]]:
        """The first good answer of a worker: all of it if `whole`, else at its beginning."""
        if not job.path.startswith("/"):
            raise BadRequest(f"path is {job.path!r}; it must begin with /")
        silence_s = self._limit_s(job)

        async def ask(routed: Routed) -> tuple[aiohttp.ClientResponse, bytes]:
            url = routed.url.rstrip("/") + job.path
            return await self._http.ask_worker(url, job.body(routed), silence_s, whole)

        return await self.begin_with(job, ask)

    async def begin_with(self, job: Job, ask: Callable[[Routed], Awaitable[T]]) -> Started[T]:
        """What `ask` returns for the first worker for which it raises no WorkerFailed, within the job's time."""
        limit_s, last = self._limit_s(job), deque[str](maxlen=1)
        try:
            async with asyncio.timeout(limit_s):
                return await self.tried(job, ask, last.append)
        except TimeoutError:
            what = f"; last: {last[0]}" if last else ""
            raise TimedOut(f"endpoint {job.endpoint!r} gave no answer within {limit_s:g} s{what}") from None

    async def tried(
        self, job: Job, ask: Callable[[Routed], Awaitable[T]], on_status: Callable[[str], None] = lambda why: None
    ) -> Started[T]:
        """The same however long it takes. `on_status`: called with what keeps it waiting."""
        clock = asyncio.get_running_loop().time
        started_at = clock()
        request_idx, attempts, failures, begun = 0, 0, 0, 0
        while True:
            try:
                routed = job.routed or await self.route(job.endpoint, job.cost, request_idx, job.prefer)
                request_idx = routed.request_idx or request_idx
                if isinstance(routed, Waiting):
                    on_status(routed.status)
                    if job.on_waiting:
                        job.on_waiting(routed)
                    spread_s = random.uniform(*POLL_S)  # noqa: S311 - spreads load, hides nothing
                    await asyncio.sleep(max(routed.retry_after_s, spread_s))
                    continue
                wait_s = clock() - started_at
                attempts += 1
                return Started(await ask(routed), routed, wait_s, attempts)
            except (WorkerFailed, Unreachable) as error:
                # A server that never answered has another address; one that did is only restarting.
                if failures >= job.retries or (isinstance(error, Unreachable) and not request_idx):
                    raise
                on_status(error.message)
                after_s = 0.0
                if isinstance(error, WorkerFailed):
                    after_s, begun = error.retry_after_s, begun + error.begun
                    if begun >= MAX_BEGUN and error.begun:
                        said = f"{error.message}; it was begun {begun} times and is not tried again"
                        raise WorkerFailed(said, error.status, error.code) from error
            first_s, most_s = BACK_OFF_S
            spread_s = min(first_s * 2**failures, most_s) * random.uniform(0.5, 1)  # noqa: S311
            await asyncio.sleep(max(after_s, spread_s))
            failures += 1

    def _limit_s(self, job: Job) -> float:
        return self.timeout_s if job.timeout_s is None else job.timeout_s


def wrapped(payload: object) -> Body:
    """The body of a request in the wire's present shape."""
    return lambda routed: {"auth_data": routed.auth_data, "payload": payload}
