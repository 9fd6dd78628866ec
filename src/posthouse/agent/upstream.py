"""The model server: when it is ready, and whether it is well."""

import asyncio
import logging
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout
from yarl import URL

from posthouse.agent.logfile import lines
from posthouse.agent.settings import AgentSettings
from posthouse.agent.worker import Worker

log = logging.getLogger(__name__)

_LOADING_POLL_S: Final = 0.5  # seconds between two health calls while the model loads
_WELL_POLL_S: Final = 5.0  # and afterwards
_ILL_AFTER: Final = 3  # failures in a row; a single one may be a hiccup
_HEALTH_TIMEOUT = ClientTimeout(total=10)  # as long as the peer's worker waits


async def wait_until_ready(session: ClientSession, settings: AgentSettings, ready_line: asyncio.Event) -> None:
    """Return once the model server says in every way it was asked for that it is ready."""
    if settings.ready_log is not None:
        await ready_line.wait()
    while True:
        if not await _problem(session, settings):
            return
        await asyncio.sleep(_LOADING_POLL_S)


async def watch_health(session: ClientSession, settings: AgentSettings, worker: Worker) -> None:
    """Run until cancelled: keep the worker's illness up to date."""
    failures = 0
    while settings.health is not None:
        await asyncio.sleep(_WELL_POLL_S)
        problem = await _problem(session, settings, busy=worker.busy)
        failures = failures + 1 if problem else 0
        if failures == 0:
            worker.feel("")
        elif failures >= _ILL_AFTER:
            worker.feel(f"health check of the model server: {problem}")


async def watch_log(settings: AgentSettings, worker: Worker, ready_line: asyncio.Event) -> None:
    """Run until cancelled: set `ready_line` and the worker's failure by what the model's log says."""
    if settings.log_file is None:
        return
    async for line in lines(settings.log_file):
        if settings.ready_log is not None and settings.ready_log in line:
            ready_line.set()
        for text in settings.error_logs:
            if text in line:
                log.error("model log: found %r", text)
                worker.fail(f"the model's log says: {text}")


async def _problem(session: ClientSession, settings: AgentSettings, busy: bool = False) -> str:
    """Return what is wrong with the answer to the health call, empty when nothing is."""
    if settings.health is None:
        return ""
    try:
        async with session.get(
            URL(settings.upstream).join(URL(settings.health)), timeout=_HEALTH_TIMEOUT, allow_redirects=False
        ) as answer:
            return "" if answer.ok else f"status {answer.status}"
    except TimeoutError:
        # Some model servers answer nothing while they work.
        return "" if busy else "no answer in time"
    except (ClientError, OSError) as error:
        return type(error).__name__
