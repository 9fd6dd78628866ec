"""Signatures made beside the event loop: RSA lets go of the interpreter while it computes, so threads use all cores."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from posthouse.ports import Signer

MOST_TOGETHER = 32
"""Most signatures that are kept back to be delivered together."""

Then = Callable[[str | Exception], None]
"""Called on the event loop with the signature, or with what the signer raised."""
_Job = tuple[bytes, Then]


class SigningThreads:
    """Threads that sign for one event loop, with less ado than the futures of a thread pool."""

    def __init__(self, signer: Signer, count: int) -> None:
        """`count`: of threads. Twice as many as cores have something to compute while the event loop keeps the
        interpreter to itself."""
        self._signer = signer
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[tuple[Then, str | Exception]] = deque()
        self._called = False
        self._count = count
        self._loop = asyncio.get_running_loop()
        for number in range(count):
            threading.Thread(target=self._work, name=f"sign-{number}", daemon=True).start()

    def sign(self, data: bytes, then: Then) -> None:
        """Has `then` called with the signature of `data`."""
        self._jobs.put((data, then))

    def close(self) -> None:
        """Lets the threads end once they have signed what they were given."""
        for _ in range(self._count):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            data, then = job
            try:
                self._done.append((then, self._signer.sign(data)))
            except Exception as error:  # noqa: BLE001 - whoever waits for the signature gets it
                self._done.append((then, error))
            # One call of the event loop delivers all that is done by then. To wake it, and after it the clients one by
            # one, costs as much as half a signature. So where more wait than are done, those that are done wait for
            # some more. Whoever signs the last finds that none waits, so none is forgotten.
            if not self._called and len(self._done) >= min(self._jobs.qsize(), MOST_TOGETHER):
                self._called = True
                try:
                    self._loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:  # the event loop is closed: nobody waits any more
                    return

    def _deliver(self) -> None:
        self._called = False  # first, so that what is done from here on calls again
        while self._done:
            then, result = self._done.popleft()
            try:
                then(result)
            except Exception as error:  # noqa: BLE001 - the others get theirs
                self._loop.call_exception_handler({"message": "a signature could not be used", "exception": error})
