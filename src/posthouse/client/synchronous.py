"""The client for programs without asyncio: a thin shell over `AsyncClient`, driven from a thread of its own."""

import asyncio
import concurrent.futures
import functools
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from posthouse.client.asynchronous import TIMEOUT_S, AsyncClient
from posthouse.client.errors import ClientError
from posthouse.client.sessions import AsyncSession

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)

_END = object()


class _Thread:
    """A thread with a loop, in which coroutines run and streams are read."""

    def __init__(self) -> None:
        self._open: set[AsyncGenerator[Any, None]] = set()
        self._closed = False
        self._sending = threading.Lock()
        # A thread and not `asyncio.run` for each call: idle connections are kept well, and notebooks have a loop.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="posthouse-client", daemon=True)
        self._thread.start()

    def run(self, call: Callable[[], Awaitable[T]]) -> T:
        async def awaited() -> T:
            return await call()

        with self._sending:
            if self._closed:
                raise ClientError("this client is closed")
            future = asyncio.run_coroutine_threadsafe(awaited(), self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise ClientError("this client was closed before there was an answer") from error
        finally:
            future.cancel()  # does nothing but after an interrupt of this wait

    def events(self, events: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        self._open.add(events)
        try:
            while (event := self.run(lambda: anext(events, _END))) is not _END:
                yield event  # type: ignore[misc]  # `_END` apart, it is a T
        finally:
            self._open.discard(events)
            if not self._closed:
                self.run(events.aclose)

    def close(self, last: Callable[[], Awaitable[None]]) -> None:
        """Ends what runs, then `last`, then the thread."""
        with self._sending:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(last), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self, last: Callable[[], Awaitable[None]]) -> None:
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        for events in tuple(self._open):
            await events.aclose()
        await last()


class _Shell(Generic[A_co]):
    """Does what an `A` does, and blocks meanwhile."""

    def __init__(self, inner: A_co, thread: _Thread) -> None:
        self._inner = inner
        self._thread = thread

    def __enter__(self) -> Self:
        return self


def _blocking(method: Callable[Concatenate[A, P], Awaitable[T]]) -> Callable[Concatenate[_Shell[A], P], T]:
    """Returns an asynchronous method as a blocking one."""

    def call(self: _Shell[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._thread.run(lambda: method(self._inner, *args, **kwargs))

    return functools.update_wrapper(call, method)


def _streaming(
    method: Callable[Concatenate[A, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[_Shell[A], P], Generator[T, None, None]]:
    """Returns a method that yields asynchronously as one that blocks for each event."""

    def call(self: _Shell[A], /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        return self._thread.events(method(self._inner, *args, **kwargs))

    return functools.update_wrapper(call, method)


def _opening(
    method: Callable[Concatenate[A, P], Awaitable[AsyncSession]],
) -> Callable[Concatenate[_Shell[A], P], "Session"]:
    """Returns a method that opens a session as one that opens a blocking one."""

    def call(self: _Shell[A], /, *args: P.args, **kwargs: P.kwargs) -> "Session":
        return Session(self._thread.run(lambda: method(self._inner, *args, **kwargs)), self._thread)

    return functools.update_wrapper(call, method)


class Session(_Shell[AsyncSession]):
    """Does what `AsyncSession` does, and blocks meanwhile."""

    @property
    def session_id(self) -> str:
        return self._inner.session_id

    request = _blocking(AsyncSession.request)
    stream = _streaming(AsyncSession.stream)
    is_open = _blocking(AsyncSession.is_open)
    close = _blocking(AsyncSession.close)
    __exit__ = _blocking(AsyncSession.__aexit__)


class Client(_Shell[AsyncClient]):
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
        super().__init__(AsyncClient(url, api_key, timeout_s, ca), _Thread())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes every connection and ends the thread. The client is of no further use.

        What other threads wait for from it raises a `ClientError` there, and so does every later call.
        """
        self._thread.close(self._inner.close)

    route = _blocking(AsyncClient.route)
    request = _blocking(AsyncClient.request)
    stream = _streaming(AsyncClient.stream)
    generate = _blocking(AsyncClient.generate)
    generate_stream = _streaming(AsyncClient.generate_stream)
    session = _opening(AsyncClient.session)

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
    aliases = _blocking(AsyncClient.aliases)
    put_alias = _blocking(AsyncClient.put_alias)
    delete_alias = _blocking(AsyncClient.delete_alias)
    manifests = _blocking(AsyncClient.manifests)
    manifest = _blocking(AsyncClient.manifest)
    apply_manifest = _blocking(AsyncClient.apply_manifest)
    delete_manifest = _blocking(AsyncClient.delete_manifest)
    reachable = _blocking(AsyncClient.reachable)
    explain = _blocking(AsyncClient.explain)
    history = _blocking(AsyncClient.history)
    what_if = _blocking(AsyncClient.what_if)
    bill = _blocking(AsyncClient.bill)
    traffic = _blocking(AsyncClient.traffic)
    rotate_endpoint_key = _blocking(AsyncClient.rotate_endpoint_key)
    workers = _blocking(AsyncClient.workers)
    delete_worker = _blocking(AsyncClient.delete_worker)
    worker_logs = _blocking(AsyncClient.worker_logs)
    keys = _blocking(AsyncClient.keys)
    create_key = _blocking(AsyncClient.create_key)
    update_key = _blocking(AsyncClient.update_key)
    delete_key = _blocking(AsyncClient.delete_key)
    users = _blocking(AsyncClient.users)
    create_user = _blocking(AsyncClient.create_user)
    update_user = _blocking(AsyncClient.update_user)
    delete_user = _blocking(AsyncClient.delete_user)
    accounts = _blocking(AsyncClient.accounts)
    create_account = _blocking(AsyncClient.create_account)
    orphans = _blocking(AsyncClient.orphans)
    destroy_orphan = _blocking(AsyncClient.destroy_orphan)
    adopt_orphan = _blocking(AsyncClient.adopt_orphan)
    acts = _blocking(AsyncClient.acts)
    verify_acts = _blocking(AsyncClient.verify_acts)
    providers = _blocking(AsyncClient.providers)
    check_provider = _blocking(AsyncClient.check_provider)
    offers = _blocking(AsyncClient.offers)
    status = _blocking(AsyncClient.status)
