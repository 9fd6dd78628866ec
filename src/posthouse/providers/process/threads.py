"""Threads for what may wait for a file system: bounded, and no thread keeps the server from ending."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """At most `most` at a time, those included that were waited for in vain."""

    def __init__(self, most: int, timeout_s: float) -> None:
        self._free = asyncio.Semaphore(most)
        self._timeout_s = timeout_s

    async def run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What `call` returns. Raises: what it raises; TimeoutError if it takes longer, or no thread becomes free."""
        answer: Future[T] = Future()
        loop = asyncio.get_running_loop()

        def work() -> None:
            answer.set_running_or_notify_cancel()
            try:
                answer.set_result(call(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - handed to the caller
                answer.set_exception(error)
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._free.release)

        async with asyncio.timeout(self._timeout_s):
            await self._free.acquire()
            threading.Thread(target=work, name=f"process: {call.__name__}", daemon=True).start()
            return await asyncio.wrap_future(answer)
