"""Signatures made beside the event loop, by threads: the library releases the interpreter's lock while it computes."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from posthouse.signing.rsa import RsaKey

MAX_THREADS: Final = 8
"""More would have nothing to do: eight threads sign as much as one event loop routes."""

Then = Callable[[str | Exception], None]
"""Called on the event loop with the signature, or with what kept it from being made."""


class SigningThreads:
    """Threads that sign for one event loop. They start with the first text, so a server without old workers has none.

    What waits for them is bounded by who asks: a connection of the server waits for one signature at a time.
    """

    def __init__(self, key: RsaKey, count: int) -> None:
        """`count`: of threads."""
        self._key = key
        self._threads = ThreadPoolExecutor(min(count, MAX_THREADS), "signing")
        self._loop = asyncio.get_running_loop()

    def sign(self, data: bytes, then: Then) -> None:
        """Call `then` on the event loop with the signature of `data`."""
        self._threads.submit(self._key.sign, data).add_done_callback(lambda signed: self._deliver(signed, then))

    def close(self) -> None:
        """End the threads. What they have not begun to sign fails."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _deliver(self, signed: Future[str], then: Then) -> None:
        try:
            result: str | Exception = signed.result()
        except Exception as error:  # noqa: BLE001 - the caller that waits for the signature gets it
            result = error
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            self._loop.call_soon_threadsafe(then, result)
