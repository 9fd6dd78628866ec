"""The client for programs that use asyncio."""

import os
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any, Self

import msgspec

from posthouse.client.answers import Answer, Routed, Waiting
from posthouse.client.errors import WorkerFailed
from posthouse.client.events import MAX_EVENT_BYTES
from posthouse.client.http import Http
from posthouse.client.management import Management
from posthouse.client.requests import Job, OnWaiting, Requests, wrapped
from posthouse.client.sessions import AsyncSession

TIMEOUT_S = 600.0  # for one answer; the wire's own clients give a worker as long
RETRIES = 10  # further workers tried; with the back-off, about 40 s of failures
LIFETIME_S = 60.0  # that a session lasts without a request; the wire's own default


class AsyncClient(Management):
    """Sends requests to endpoints and manages them.

    `url` and `api_key` default to the environment's POSTHOUSE_URL and POSTHOUSE_API_KEY. `timeout_s` bounds each
    request, its wait for a worker and its retries included. `ca` is a file of root certificates, in PEM, that are
    trusted beside the machine's own, and defaults to POSTHOUSE_CA; workers' certificates are checked with the root that
    the server states. `max_event_bytes` bounds each event of a stream. Every method may raise a `ClientError`.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        ca: str | os.PathLike[str] | None = None,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        super().__init__(Http(url, api_key, ca))
        self._requests = Requests(self._http, timeout_s, max_event_bytes)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes every connection. The client may be used again."""
        await self._http.close()

    async def route(self, endpoint: str, cost: float | None = None, request_idx: int = 0) -> Routed | Waiting:
        """Asks once for a worker. `request_idx` above 0 asks again for a request that was answered with it."""
        return await self._requests.route(endpoint, cost, request_idx)

    async def request(
        self,
        endpoint: str,
        path: str,
        payload: object,
        cost: float | None = None,
        timeout_s: float | None = None,
        retries: int = RETRIES,
        on_waiting: OnWaiting | None = None,
    ) -> Answer:
        """Sends `payload` to `path` of a worker of `endpoint` and returns its answer.

        Waits for a worker while none is free, calling `on_waiting` for each such answer, and tries another when one
        cannot be reached or answers 408, 429 or 503, after as long as its Retry-After says. What a worker may have
        begun, because it broke off or answered another 5xx, is tried once more.
        """
        return await self._requests.answer(Job(endpoint, path, wrapped(payload), cost, timeout_s, retries, on_waiting))

    def stream(
        self,
        endpoint: str,
        path: str,
        payload: object,
        cost: float | None = None,
        timeout_s: float | None = None,
        retries: int = RETRIES,
        on_waiting: OnWaiting | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Sends like `request` and yields the events of the answer as they come: their data, or a `ServerEvent` where
        an event has a name or an id.

        A worker that fails is replaced until it begins to answer; what fails later raises. `timeout_s` bounds the time
        to the beginning, and then each silence.
        """
        return self._requests.events(Job(endpoint, path, wrapped(payload), cost, timeout_s, retries, on_waiting))

    async def generate(
        self,
        endpoint: str,
        prompt: str,
        max_new_tokens: int = 256,
        timeout_s: float | None = None,
        on_waiting: OnWaiting | None = None,
    ) -> Answer:
        """Asks a language model for text, at `/generate`.

        The request has the shape of the wire's first published example: what `/route/` answered stands beside the
        model's own fields. The number of tokens is its cost.
        """
        return await self._requests.answer(
            _generation("/generate", endpoint, prompt, max_new_tokens, timeout_s, on_waiting)
        )

    def generate_stream(
        self,
        endpoint: str,
        prompt: str,
        max_new_tokens: int = 256,
        timeout_s: float | None = None,
        on_waiting: OnWaiting | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Asks like `generate`, at `/generate_stream`, and yields the events of the answer as they come."""
        return self._requests.events(
            _generation("/generate_stream", endpoint, prompt, max_new_tokens, timeout_s, on_waiting)
        )

    async def session(
        self,
        endpoint: str,
        cost: float | None = None,
        lifetime_s: float = LIFETIME_S,
        on_close_route: str | None = None,
        on_close_payload: object = None,
        timeout_s: float | None = None,
        on_waiting: OnWaiting | None = None,
    ) -> AsyncSession:
        """Opens a session: one worker, held for requests that belong together, until it is closed.

        It closes itself once `lifetime_s` have passed; each request in it adds as many. `cost` is what it holds of the
        worker meanwhile. The worker's model server is then sent `on_close_payload` at `on_close_route`.
        """
        terms = {"lifetime": lifetime_s, "on_close_route": on_close_route, "on_close_payload": on_close_payload}
        job = Job(endpoint, "/session/create", wrapped(terms), cost, timeout_s, RETRIES, on_waiting)
        begun = await self._requests.begin(job, whole=True)
        try:
            session_id = msgspec.json.decode(begun.answer[1], type=dict[str, Any])["session_id"]
        except (msgspec.MsgspecError, KeyError) as error:
            raise WorkerFailed(f"worker {begun.routed.url} did not say what session it opened: {error}") from error
        return AsyncSession(self._requests, begun.routed, str(session_id))


def _generation(
    path: str, endpoint: str, prompt: str, tokens: int, timeout_s: float | None, on_waiting: OnWaiting | None
) -> Job:
    asked = {"inputs": prompt, "parameters": {"max_new_tokens": tokens}}
    return Job(endpoint, path, lambda routed: {**routed.auth_data, **asked}, tokens, timeout_s, RETRIES, on_waiting)
