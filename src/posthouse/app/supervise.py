"""Tasks that must always run, and what is saved at the end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager

import structlog

from posthouse.errors import Unavailable

log = structlog.get_logger()

RESTART_S = 1.0
"""How long a part rests that has ended or failed, before it is started again."""


@asynccontextmanager
async def supervised(parts: Mapping[str, Callable[[], Awaitable[None]]]) -> AsyncIterator[None]:
    """Keeps every part running, each in a task of its own, until the context ends. Names are for the log."""
    tasks = [asyncio.create_task(keep_running(name, part), name=name) for name, part in parts.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def keep_running(name: str, part: Callable[[], Awaitable[None]]) -> None:
    """Runs a part again and again; what it raises is logged."""
    while True:
        try:
            await part()
        except Exception as error:  # noqa: BLE001 - the last seam: nothing may end what keeps the server going
            log.error("a part of the server failed and is restarted", part=name, error=repr(error)[:500])
        await asyncio.sleep(RESTART_S)


async def saved(saves: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Makes every call, one after another; what one raises is logged. Stops where the store cannot be used."""
    for save in saves:
        try:
            await save()
        except Exception as error:  # noqa: BLE001 - the seam of the end: the others are saved all the same
            log.warning("not everything could be saved at the end", error=repr(error)[:300])
            if isinstance(error, Unavailable):  # each further try may take seconds
                return
