"""The model server: when it is ready, and whether it is well."""

import asyncio
import errno
import logging
import os
import time
from typing import Final

from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, ServerDisconnectedError
from yarl import URL

from posthouse.agent.loading import Progress
from posthouse.agent.logfile import Printed, chunks
from posthouse.agent.outward import is_here
from posthouse.agent.settings import AgentSettings
from posthouse.agent.worker import Worker

log = logging.getLogger(__name__)

_LOADING_POLL_S: Final = 0.5  # seconds between two health calls while the model loads
_WELL_POLL_S: Final = 5.0  # and afterwards
_LOOK_S: Final = 5.0  # between two looks at what a worker that loads reads and writes
_DESERTED_S: Final = 30.0  # without a process and without anyone listening: it will not be ready any more
_ILL_AFTER: Final = 3  # failures in a row; a single one may be a hiccup
_HANGS_S: Final = 60.0  # without a byte for any request, and without an answer to the health call
_HANGS_FACTOR: Final = 10.0  # times as long as all of its work should take: some answer nothing while they work
_HEALTH_TIMEOUT = ClientTimeout(total=10)  # as long as the peer's worker waits
_REFUSED: Final = "connection refused"
_TEXT: Final = "the text"
_SILENT: Final = "no answer in 10 s"


async def wait_until_ready(
    session: ClientSession, settings: AgentSettings, worker: Worker, progress: Progress, ready_line: asyncio.Event
) -> None:
    """Return once the model server says in every way it was asked for that it is ready."""
    if settings.ready_log is not None:
        worker.waits_for(f"{_TEXT} {settings.ready_log!r} in {settings.log_file or 'what the model server prints'}")
        await ready_line.wait()
    while problem := await _problem(session, settings):
        worker.waits_for(f"{_health_call(settings)}: {problem}")
        if problem.startswith("status"):
            progress.step()  # it says itself that it is not ready yet
        await asyncio.sleep(_LOADING_POLL_S)


async def watch_loading(settings: AgentSettings, worker: Worker, progress: Progress, printed: Printed) -> None:
    """Run until cancelled: see whether a worker that is not ready gets on, and fail it when it cannot be any more."""
    began_at, deserted_at = time.monotonic(), None
    while not worker.perf:
        await asyncio.sleep(_LOOK_S)
        await progress.look()
        now = time.monotonic()
        waited_s = now - began_at
        if settings.loading_timeout_s:
            if waited_s > settings.loading_timeout_s:
                worker.fail(f"not ready after {waited_s:.0f} s{_last(printed)}; {worker.waiting_text}")
            continue
        nobody = worker.waiting_text.endswith(_REFUSED) or worker.waiting_text.startswith(_TEXT)
        alone = nobody and progress.others == 0 and is_here(URL(settings.upstream).host or "")
        deserted_at = (deserted_at or now) if alone else None
        if deserted_at is not None and now - deserted_at > _DESERTED_S:
            worker.fail(f"the model server has ended{_last(printed)}; {worker.waiting_text}, and it has no process")


async def watch_health(session: ClientSession, settings: AgentSettings, worker: Worker) -> None:
    """Run until cancelled: keep the worker's illness up to date."""
    failures, well_at = 0, time.monotonic()
    while settings.health is not None:
        await asyncio.sleep(_WELL_POLL_S)
        problem = await _problem(session, settings)
        now = time.monotonic()
        if not problem:
            failures, well_at = 0, now
            worker.feel("")
            continue
        failures += 1
        if problem == _SILENT and worker.busy:
            silent_s = now - max(well_at, worker.answered_at, worker.busy_since)
            if silent_s > max(_HANGS_S, _HANGS_FACTOR * worker.wait_s):
                worker.feel(
                    f"the model server hangs: no byte for any request, and no answer to "
                    f"{_health_call(settings)}, for {silent_s:.0f} s"
                )
        elif failures >= _ILL_AFTER:
            worker.feel(f"health check of the model server: {_health_call(settings)}: {problem}")


class Listener:
    """Looks for the texts that the settings name in what the model server prints."""

    def __init__(self, settings: AgentSettings, worker: Worker) -> None:
        self._settings = settings
        self._worker = worker
        self.ready_line: Final = asyncio.Event()

    def hear(self, text: str) -> None:
        """Set `ready_line` and the worker's failure by what is in the text."""
        if self._settings.ready_log is not None and self._settings.ready_log in text:
            self.ready_line.set()
        for error in self._settings.error_logs:
            if error in text and not self._worker.failure:
                log.error("model log: found %r", error)
                self._worker.fail(f"the model's log says: {error}")


async def watch_log(settings: AgentSettings, printed: Printed, listener: Listener) -> None:
    """Run until cancelled: hear what a model server that others have started writes to its log."""
    if settings.log_file is None:
        return
    async for chunk in chunks(settings.log_file):
        if chunk:
            listener.hear(printed.feed(chunk))
        else:
            printed.begin()


async def _problem(session: ClientSession, settings: AgentSettings) -> str:
    """Return what is wrong with the answer to the health call, empty when nothing is."""
    if settings.health is None:
        return ""
    try:
        async with session.get(_health_url(settings), timeout=_HEALTH_TIMEOUT, allow_redirects=False) as answer:
            return "" if 200 <= answer.status < 300 else f"status {answer.status}"
    except TimeoutError:
        return _SILENT
    except ClientConnectorError as error:
        refused = error.os_error.errno == errno.ECONNREFUSED or isinstance(error.os_error, ConnectionRefusedError)
        return _REFUSED if refused else os.strerror(error.os_error.errno or errno.EIO).lower()
    except ServerDisconnectedError:
        return "the connection was closed without an answer"
    except (ClientError, OSError) as error:
        return type(error).__name__


def _health_url(settings: AgentSettings) -> URL:
    return URL(settings.upstream).join(URL(settings.health or ""))


def _health_call(settings: AgentSettings) -> str:
    url = _health_url(settings)
    return f"GET {url.raw_path} on {url.host}:{url.port}"


def _last(printed: Printed) -> str:
    """Return the last that it printed, to stand where a narrow table still shows it."""
    return f": {printed.last_lines}" if printed.last_lines else ", and printed nothing"
