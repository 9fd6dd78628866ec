"""One question that many ask at the same time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Asks one at a time. Callers that come meanwhile share the next answer, not the present one, which may be older
    than their question."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._present: asyncio.Task[T] | None = None
        self._next: asyncio.Task[T] | None = None

    async def answer(self) -> T:
        """An answer to a question that was not asked before this call. Raises what asking raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._present))
            self._next.add_done_callback(lambda done: done.cancelled() or done.exception())  # the callers may be gone
        return await asyncio.shield(self._next)

    async def close(self) -> None:
        """Gives up what is on its way."""
        tasks = [task for task in (self._present, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _after(self, before: asyncio.Task[T] | None) -> T:
        if before is not None:
            await asyncio.wait([before])
        self._present, self._next = self._next, None
        return await self._ask()
