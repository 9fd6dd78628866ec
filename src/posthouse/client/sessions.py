"""Sessions: one worker, held for requests that belong together."""

from collections.abc import AsyncGenerator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from posthouse.client.answers import Answer, Routed
from posthouse.client.errors import BadRequest, TimedOut, WorkerFailed
from posthouse.client.http import CALL_TIMEOUT_S
from posthouse.client.requests import Body, Job, Requests


class AsyncSession:
    """One worker of an endpoint, held for requests that belong together. Leaving its context closes it."""

    def __init__(self, requests: Requests, routed: Routed, session_id: str) -> None:
        self._requests = requests
        self._routed = routed
        self.session_id = session_id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(WorkerFailed, TimedOut):  # a worker that is gone holds no session, and a lost one closes itself
            await self.close()

    async def request(self, path: str, payload: object, timeout_s: float | None = None, retries: int = 0) -> Answer:
        """Sends `payload` to `path` of the session's worker and returns its answer; see `AsyncClient.request`.

        Nothing is tried again unless asked for, because a session's requests may depend on each other. Raises
        `NotFound` once the session is closed.
        """
        return await self._requests.answer(self._job(path, self._wrapped(payload), timeout_s, retries))

    def stream(
        self, path: str, payload: object, timeout_s: float | None = None, retries: int = 0
    ) -> AsyncGenerator[Any, None]:
        """Sends like `request` and yields the events of the answer as they come: see `AsyncClient.stream`."""
        return self._requests.events(self._job(path, self._wrapped(payload), timeout_s, retries))

    async def is_open(self) -> bool:
        answer = await self._requests.answer(self._job("/session/health", self._named))
        return bool(answer.json().get("ok"))

    async def close(self) -> None:
        """Closes the session. One that is closed already stays so."""
        with suppress(BadRequest):
            await self._requests.answer(self._job("/session/end", self._named))

    def _wrapped(self, payload: object) -> Body:
        return lambda routed: {"auth_data": routed.auth_data, "session_id": self.session_id, "payload": payload}

    def _named(self, routed: Routed) -> object:
        return {"session_id": self.session_id, "session_auth": routed.auth_data}

    def _job(self, path: str, body: Body, timeout_s: float | None = CALL_TIMEOUT_S, retries: int = 0) -> Job:
        return Job(self._routed.endpoint, path, body, 0.0, timeout_s, retries, None, self._routed)
