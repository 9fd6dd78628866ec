"""Reports to the server: the worker's state, and the requests that have ended."""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import msgspec
from aiohttp import ClientError, ClientSession

from posthouse.agent.loading import Progress
from posthouse.agent.server import Server, back_off_s
from posthouse.agent.settings import AgentSettings, origin
from posthouse.agent.worker import VERSION, Amounts, Worker
from posthouse.waiting import is_set_within
from posthouse.wire.grant import AGENT

log = logging.getLogger(__name__)

_PERIOD_S: Final = 10.0  # seconds between reports when nothing changes; the peer's, which servers rely on
_LOADING_PERIOD_S: Final = 2.0  # while the model loads, so that the server sees that the worker lives
_GAP_S: Final = 1.0  # least time between two reports of work
_ENDED_AT_ONCE: Final = 1000  # ended requests in one message
_TELL_S: Final = 5.0  # for the report of an agent that cannot begin
_GB: Final = 1024**3  # bytes; the peer's worker divides by this, too


class Reporter:
    """Sends reports to the server, and remembers what was delivered."""

    def __init__(
        self, session: ClientSession, settings: AgentSettings, worker: Worker, server: Server, progress: Progress
    ) -> None:
        self._session = session
        self._server = server
        self._progress = progress
        self._settings = settings
        self._worker = worker
        self._reported_disk_gb = self._disk_gb()
        self._failures = 0

    async def run(self) -> None:
        """Run until cancelled: report what is urgent at once, changes within a second, and every period anyway.

        Where clients leave one after another, each end is reported at once, and their sums once a second.
        """
        worker, now = self._worker, asyncio.get_running_loop().time
        report_at = now()
        while True:
            whole = worker.news or self._failures > 0 or now() >= report_at
            worker.changed.clear()
            worker.urgent.clear()
            await self.deliver(whole)
            if whole:
                report_at = now() + _GAP_S
            else:
                worker.changed.set()
            period_s = _PERIOD_S if worker.perf else _LOADING_PERIOD_S
            if self._failures:
                await asyncio.sleep(back_off_s(self._failures - 1))
                continue
            await is_set_within(worker.changed, period_s)
            await is_set_within(worker.urgent, report_at - now())

    async def deliver(self, whole: bool = True) -> None:
        """Send one batch of ended requests, and if `whole` a report. What is not delivered stays for the next time."""
        worker, identity = self._worker, {"mtoken": self._settings.mtoken}
        problem = ""
        if ended := worker.ended[:_ENDED_AT_ONCE]:
            body = {"worker_id": self._settings.worker_id, **identity, "requests": ended}
            problem = await self._post("/delete_requests/", body)
            if not problem:
                del worker.ended[: len(ended)]
            if worker.ended:
                worker.changed.set()
        if whole:
            problem = await self._report() or problem
        self._note(problem)

    async def _report(self) -> str:
        """Send one report. Return what went wrong, empty if nothing did."""
        worker, identity = self._worker, {"mtoken": self._settings.mtoken}
        worker.news = False
        disk_gb = self._disk_gb()
        amounts, worker.amounts = worker.amounts, Amounts()
        body = {
            "id": self._settings.worker_id,
            **identity,
            **worker.report(amounts, grants=bool(self._settings.mtoken)),
            "disk_usage": disk_gb,
            "additional_disk_usage": disk_gb - self._reported_disk_gb,
            "url": self._settings.url,
            **self._beyond_the_protocol(),
        }
        delivered = False
        try:
            status_problem = await self._post("/worker_status/", body)
            delivered = not status_problem
        finally:  # also when cancelled, because a last report follows
            if not delivered:
                worker.amounts += amounts
        if delivered:
            self._reported_disk_gb = disk_gb
        return status_problem

    def _beyond_the_protocol(self) -> dict[str, Any]:
        """Return what a server of ours takes of a worker: what it holds, and what it waits for while it loads."""
        if not self._server.is_ours:
            return {}
        if self._worker.perf:
            return {"adapters": self._worker.adapters} if self._worker.adapters else {}
        return {
            "waits_for": self._worker.message,
            "progress": self._progress.count,
            "loading_timeout_s": self._settings.loading_timeout_s,
        }

    async def _post(self, path: str, body: dict[str, Any]) -> str:
        """Send `body` to the first address that takes it. Return what went wrong at the last, empty if one did."""
        problem = ""
        for address in self._settings.report_addrs:
            url = f"{address.rstrip('/')}{path}"
            try:
                async with self._session.post(
                    url,
                    data=msgspec.json.encode(body),
                    headers={"Content-Type": "application/json"},
                    allow_redirects=False,  # the body carries the worker's secret
                ) as answer:
                    if 200 <= answer.status < 300:
                        return ""
                    problem = f"{origin(url)}: status {answer.status}"
            except (ClientError, OSError, TimeoutError) as error:
                problem = f"{origin(url)}: {type(error).__name__}"
        return problem

    def _note(self, problem: str) -> None:
        if problem and not self._failures:
            log.warning("report: not delivered, will try again: %s", problem)
        elif not problem and self._failures:
            log.info("report: delivered again")
        self._failures = self._failures + 1 if problem else 0

    def _disk_gb(self) -> float:
        return shutil.disk_usage(self._settings.directory).used / _GB


def report_failure(environ: Mapping[str, str], text: str) -> None:
    """Report once that the worker in this environment has failed; whatever is wrong with the environment itself."""
    body = {"mtoken": environ.get("MASTER_TOKEN", "").strip(), "version": f"{VERSION}{AGENT}", "error_msg": text}
    for address in environ.get("REPORT_ADDR", "").split(","):
        with contextlib.suppress(OSError, ValueError, HTTPException):
            path = urlsplit(address.strip()).path.rstrip("/")
            request = Request(  # noqa: S310 - the address that every report goes to
                f"{origin(address.strip())}{path}/worker_status/",
                msgspec.json.encode({"id": int(environ.get("CONTAINER_ID", "")), **body}),
                {"Content-Type": "application/json"},
            )
            with urlopen(request, timeout=_TELL_S):  # noqa: S310 - as above
                return
