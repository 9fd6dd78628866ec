"""Signatures made beside the event loop: RSA lets go of the interpreter while it computes, so threads use all cores."""

import asyncio
import threading
from collections import deque
from queue import SimpleQueue

from posthouse.ports import Signer

_Job = tuple[bytes, "asyncio.Future[str]"]


class SigningThreads:
    """Threads that sign for one event loop, with less ado than the futures of a thread pool."""

    def __init__(self, signer: Signer, count: int) -> None:
        """`count`: of threads; as many as there are cores is best."""
        self._signer = signer
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[tuple[asyncio.Future[str], str | Exception]] = deque()
        self._called = False
        self._count = count
        self._loop = asyncio.get_running_loop()
        for number in range(count):
            threading.Thread(target=self._work, name=f"sign-{number}", daemon=True).start()

    async def sign(self, data: bytes) -> str:
        """The signature of `data`. Raises: whatever the signer raises."""
        signed: asyncio.Future[str] = self._loop.create_future()
        self._jobs.put((data, signed))
        return await signed

    def close(self) -> None:
        """Lets the threads end once they have signed what they were given."""
        for _ in range(self._count):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            data, signed = job
            try:
                self._done.append((signed, self._signer.sign(data)))
            except Exception as error:  # noqa: BLE001 - whoever waits for the signature gets it
                self._done.append((signed, error))
            if not self._called:  # one call of the event loop delivers all that is done by then
                self._called = True
                try:
                    self._loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:  # the event loop is closed: nobody waits any more
                    return

    def _deliver(self) -> None:
        self._called = False  # first, so that what is done from here on calls again
        while self._done:
            signed, result = self._done.popleft()
            if signed.done():  # whoever waited went away
                continue
            if isinstance(result, Exception):
                signed.set_exception(result)
            else:
                signed.set_result(result)
