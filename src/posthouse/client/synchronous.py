"""The client for programs without asyncio: `AsyncClient`, driven from a thread of its own."""

import asyncio
import concurrent.futures
import functools
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar, overload

from posthouse.client.answers import Answer
from posthouse.client.asynchronous import COST, LIFETIME_S, RETRIES, TIMEOUT_S, AsyncClient, AsyncSession, OnWaiting
from posthouse.client.errors import PosthouseError

P = ParamSpec("P")
T = TypeVar("T")

_END = object()


def _blocking(method: Callable[Concatenate[AsyncClient, P], Awaitable[T]]) -> Callable[Concatenate["Client", P], T]:
    """Returns `method` of the asynchronous client as a method of the blocking one."""

    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(lambda: method(self._client, *args, **kwargs))

    functools.update_wrapper(call, method)
    return call


class Client:
    """Does what `AsyncClient` does, and blocks meanwhile. May be used from several threads.

    `on_waiting` is called in the thread of the client.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        ca: str | os.PathLike[str] | None = None,
    ) -> None:
        self._client = AsyncClient(url, api_key, timeout_s, ca)
        self._open: set[AsyncGenerator[Any, None]] = set()
        self._closed = False
        self._sending = threading.Lock()
        # A thread and not `asyncio.run` for each call: idle connections are kept well, and notebooks have a loop.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="posthouse-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes every connection and ends the thread. The client is of no further use.

        What other threads wait for from it raises a `PosthouseError` there, and so does every later call.
        """
        with self._sending:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        for events in tuple(self._open):
            await events.aclose()
        await self._client.close()

    def _run(self, call: Callable[[], Awaitable[T]]) -> T:
        async def awaited() -> T:
            return await call()

        with self._sending:
            if self._closed:
                raise PosthouseError("this client is closed")
            future = asyncio.run_coroutine_threadsafe(awaited(), self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise PosthouseError("this client was closed before there was an answer") from error
        finally:
            future.cancel()  # does nothing but after an interrupt of this wait

    def _events(self, events: AsyncGenerator[Any, None]) -> Generator[Any, None, None]:
        self._open.add(events)
        try:
            while (event := self._run(lambda: anext(events, _END))) is not _END:
                yield event
        finally:
            self._open.discard(events)
            if not self._closed:
                self._run(events.aclose)

    route = _blocking(AsyncClient.route)
    request = _blocking(AsyncClient.request)

    def stream(
        self,
        endpoint: str,
        path: str,
        payload: object,
        cost: float = COST,
        timeout_s: float | None = None,
        retries: int = RETRIES,
        on_waiting: OnWaiting | None = None,
    ) -> Generator[Any, None, None]:
        """Sends like `request` and yields the events of the answer as they come: see `AsyncClient.stream`."""
        return self._events(self._client.stream(endpoint, path, payload, cost, timeout_s, retries, on_waiting))

    @overload
    def generate(
        self,
        endpoint: str,
        prompt: str,
        max_new_tokens: int = 256,
        stream: Literal[False] = False,
        timeout_s: float | None = None,
        on_waiting: OnWaiting | None = None,
    ) -> Answer: ...

    @overload
    def generate(
        self,
        endpoint: str,
        prompt: str,
        max_new_tokens: int = 256,
        *,
        stream: Literal[True],
        timeout_s: float | None = None,
        on_waiting: OnWaiting | None = None,
    ) -> Generator[Any, None, None]: ...

    def generate(
        self,
        endpoint: str,
        prompt: str,
        max_new_tokens: int = 256,
        stream: bool = False,
        timeout_s: float | None = None,
        on_waiting: OnWaiting | None = None,
    ) -> Answer | Generator[Any, None, None]:
        """Asks a language model for text: see `AsyncClient.generate`."""
        ask = self._client.generate
        if stream:
            events = ask(endpoint, prompt, max_new_tokens, stream=True, timeout_s=timeout_s, on_waiting=on_waiting)
            return self._events(events)
        return self._run(lambda: ask(endpoint, prompt, max_new_tokens, timeout_s=timeout_s, on_waiting=on_waiting))

    def session(
        self,
        endpoint: str,
        cost: float = COST,
        lifetime_s: float = LIFETIME_S,
        on_close_route: str | None = None,
        on_close_payload: object = None,
        timeout_s: float | None = None,
        on_waiting: OnWaiting | None = None,
    ) -> "Session":
        """Opens a session: see `AsyncClient.session`."""
        terms = (cost, lifetime_s, on_close_route, on_close_payload, timeout_s, on_waiting)
        return Session(self, self._run(lambda: self._client.session(endpoint, *terms)))

    endpoints = _blocking(AsyncClient.endpoints)
    endpoint = _blocking(AsyncClient.endpoint)
    create_endpoint = _blocking(AsyncClient.create_endpoint)
    update_endpoint = _blocking(AsyncClient.update_endpoint)
    delete_endpoint = _blocking(AsyncClient.delete_endpoint)
    endpoint_workers = _blocking(AsyncClient.endpoint_workers)
    endpoint_logs = _blocking(AsyncClient.endpoint_logs)
    workergroups = _blocking(AsyncClient.workergroups)
    create_workergroup = _blocking(AsyncClient.create_workergroup)
    update_workergroup = _blocking(AsyncClient.update_workergroup)
    update_workers = _blocking(AsyncClient.update_workers)
    delete_workergroup = _blocking(AsyncClient.delete_workergroup)
    templates = _blocking(AsyncClient.templates)
    create_template = _blocking(AsyncClient.create_template)
    update_template = _blocking(AsyncClient.update_template)
    delete_template = _blocking(AsyncClient.delete_template)
    explain = _blocking(AsyncClient.explain)
    traffic = _blocking(AsyncClient.traffic)
    rotate_endpoint_key = _blocking(AsyncClient.rotate_endpoint_key)
    workers = _blocking(AsyncClient.workers)
    delete_worker = _blocking(AsyncClient.delete_worker)
    worker_logs = _blocking(AsyncClient.worker_logs)
    keys = _blocking(AsyncClient.keys)
    create_key = _blocking(AsyncClient.create_key)
    delete_key = _blocking(AsyncClient.delete_key)
    accounts = _blocking(AsyncClient.accounts)
    create_account = _blocking(AsyncClient.create_account)
    providers = _blocking(AsyncClient.providers)
    status = _blocking(AsyncClient.status)


class Session:
    """Does what `AsyncSession` does, and blocks meanwhile."""

    def __init__(self, client: Client, session: AsyncSession) -> None:
        self._client = client
        self._session = session
        self.session_id = session.session_id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client._run(lambda: self._session.__aexit__(kind, error, trace))

    def request(self, path: str, payload: object, timeout_s: float | None = None, retries: int = 0) -> Answer:
        """Sends `payload` and returns the answer: see `AsyncSession.request`."""
        return self._client._run(lambda: self._session.request(path, payload, timeout_s, retries))

    def stream(
        self, path: str, payload: object, timeout_s: float | None = None, retries: int = 0
    ) -> Generator[Any, None, None]:
        """Sends like `request` and yields the events of the answer as they come: see `AsyncClient.stream`."""
        return self._client._events(self._session.stream(path, payload, timeout_s, retries))

    def is_open(self) -> bool:
        return self._client._run(self._session.is_open)

    def close(self) -> None:
        """Closes the session. One that is closed already stays so."""
        self._client._run(self._session.close)
