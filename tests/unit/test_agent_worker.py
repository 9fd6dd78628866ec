"""What a worker holds ready for its next report, and when it asks for one at once."""

import asyncio
from typing import Any, cast

from posthouse.agent import AgentSettings
from posthouse.agent.loading import Progress
from posthouse.agent.report import Reporter
from posthouse.agent.server import Server
from posthouse.agent.worker import Request, Worker
from tests.campaign.virtual import in_virtual_time

ENVIRONMENT = {"CONTAINER_ID": "7", "REPORT_ADDR": "http://10.0.0.1:8080", "WORKER_PORT": "3000"}
SERVED = {"upstream": "http://127.0.0.1:8000", "url": "http://203.0.113.9:40123"}


class Told(Reporter):
    """Notes what it would send, and when."""

    def __init__(self, worker: Worker) -> None:
        settings = AgentSettings.from_environment(ENVIRONMENT, **SERVED)
        session = cast(Any, None)
        super().__init__(session, settings, worker, Server(session, settings), Progress(settings))
        self.calls: list[tuple[str, float]] = []
        self.problem = ""

    async def _post(self, path: str, body: dict[str, Any]) -> str:
        self.calls.append((path, asyncio.get_running_loop().time()))
        return self.problem

    def at(self, path: str) -> list[float]:
        return [at for told, at in self.calls if told == path]


def test_what_a_client_gave_up_is_told_at_once_and_what_ended_in_time() -> None:
    worker, requests = Worker(), [Request(1, 5.0), Request(2, 5.0)]
    for request in requests:
        worker.start(request)
    worker.end(requests[0], "Success", done=5.0)
    assert not worker.urgent.is_set()
    worker.end(requests[1], "Cancelled")
    assert worker.urgent.is_set()
    assert [row["status"] for row in worker.ended] == ["Success", "Cancelled"]


@in_virtual_time
async def test_each_client_that_leaves_is_told_at_once_and_the_report_once_a_second() -> None:
    worker = Worker()
    worker.become_ready(100.0)
    reporter = Told(worker)
    running = asyncio.create_task(reporter.run())
    await asyncio.sleep(5)
    reporter.calls.clear()
    left_at = []
    for number in range(1, 101):
        request = Request(number, 1.0)
        worker.start(request)
        await asyncio.sleep(0.02)
        worker.end(request, "Cancelled")
        left_at.append(asyncio.get_running_loop().time())
    await asyncio.sleep(5)
    running.cancel()
    assert reporter.at("/delete_requests/") == left_at
    assert 2 <= len(reporter.at("/worker_status/")) <= 4


@in_virtual_time
async def test_news_that_were_not_taken_are_told_again_soon() -> None:
    worker = Worker()
    reporter = Told(worker)
    running = asyncio.create_task(reporter.run())
    await asyncio.sleep(0.1)
    reporter.calls.clear()
    reporter.problem = "status 500"
    worker.fail("it broke")
    await asyncio.sleep(0.1)
    reporter.problem = ""
    await asyncio.sleep(0.6)
    running.cancel()
    assert reporter.at("/worker_status/") == [0.1, 0.6]
