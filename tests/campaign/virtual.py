"""An event loop whose time is virtual: where nothing is ready it jumps to the next timer. No thread, no real sleep."""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context, ContextVar
from typing import Any

LIFE: ContextVar[dict["asyncio.Task[Any]", None] | None] = ContextVar("LIFE", default=None)
"""The tasks of the process that the present one belongs to; None: the world's."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Deterministic: the same program takes the same steps, and `run_in_executor` calls at once."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.steps = 0
        self.after_steps: tuple[int, Callable[[], None]] | None = None
        """What is done between two steps of tasks, at that number of steps."""
        self.at_each_step: Callable[[], bool] | None = None
        """Looks on between any two steps; true if it did something."""
        super().__init__(_Jump(self))
        self.set_task_factory(_task)

    def time(self) -> float:
        return self.now_s

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def end(self) -> None:
        """Cancels what still goes on, and closes it."""
        for task in asyncio.all_tasks(self):
            task.cancel()
        self.run_until_complete(asyncio.sleep(0))
        self.run_until_complete(asyncio.sleep(0))
        self.close()

    def skip(self, span_s: float) -> None:
        """Stands still for a while, as a machine that was suspended: then everything is late at once."""
        self.now_s += span_s


def in_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test whose time is virtual: a slow machine changes nothing of it."""

    @functools.wraps(test)
    def run() -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test())

    return run


class _Jump(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        loop = self._loop
        loop.steps += 1
        if loop.after_steps is not None and loop.steps >= loop.after_steps[0]:
            (_, work), loop.after_steps = loop.after_steps, None
            work()
            return []
        if loop.at_each_step is not None and loop.at_each_step():
            return []
        if timeout is None:
            raise RuntimeError("nothing will ever happen any more")
        if timeout > 0:
            loop.now_s += timeout
        return []


def _task(loop: Any, work: Any, context: Context | None = None) -> "asyncio.Task[Any]":
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    tasks = LIFE.get() if context is None else context.get(LIFE)
    if tasks is not None:
        tasks[task] = None
        task.add_done_callback(lambda ended: tasks.pop(ended, None))
    return task
