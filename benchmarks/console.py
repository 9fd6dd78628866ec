"""What the console costs and how quick it is: `python -m benchmarks.console [--quick] [--no-browser]`.

First `/route/` with 100 endpoints of 10 workers, nearly all of them asked, alternately with nobody watching and with 20
sessions of the console, each with its live stream: processor time of the server for a request, side by side. The server
is on one core, the load and those who watch on the other. It has the real fast path, API, event stream, samples, store
and control loop, with a decision about each endpoint every second; its provider is a list that never changes.

Then in headless Chromium, at a server with 100 endpoints that rests: how long until the first rows are there, and how a
log of 100,000 lines scrolls.

Prints figures and writes `benchmarks/results/console.json`.
"""

import argparse
import asyncio
import json
import multiprocessing as mp
import os
import shutil
import socket
import tempfile
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from itertools import count, cycle
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, cast

import aiohttp
import psutil
import uvloop
from tests.kit.live import AGENT, add_endpoint, live_server, ready

from benchmarks.route.__main__ import LOAD_CORE, machine
from benchmarks.route.load import Seen, measure, post
from benchmarks.route.servers import SECRET, SERVER_CORE, fast_path
from benchmarks.tick import Market
from benchmarks.tick import Site as Control
from posthouse.client import AsyncClient
from posthouse.config import Limits
from posthouse.domain.lifecycle import State
from posthouse.domain.reports import Report
from posthouse.engine.hub import Hub
from posthouse.engine.publisher import Publisher
from posthouse.engine.samples import Sampler
from posthouse.engine.stream import EventStream
from posthouse.fleet.events import Reported
from posthouse.keys import KeyRecord
from posthouse.ports import Provider
from posthouse.server.auth import Keyring, Scope
from posthouse.server.http import HttpServer
from posthouse.server.web import web_app
from posthouse.store import open_store

RESULTS = Path(__file__).parent / "results" / "console.json"
ENDPOINTS, VIEWERS = 100, 20
BAR = 0.9
LINES, ROW_PX = 99_000, 18
"""Lines that are there at least before it is scrolled; 100,000 are asked for, some of which the agent prints."""
LOUD = "seq -f 'INFO line %.0f of a log that somebody reads' 100000\n"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


# -- beside those who watch --------------------------------------------------------------------------------------------


def serve(record: KeyRecord, folder: str, pipe: Connection) -> None:
    """Serves until the process is ended; sends its port through `pipe`."""
    uvloop.run(_serve(record, folder, pipe))


class Now:
    """The clock of the machine, as what is driven in virtual time asks it."""

    @property
    def at(self) -> float:
        return time.time()

    def now(self) -> float:
        return time.time()

    wall = now


async def _serve(record: KeyRecord, folder: str, pipe: Connection) -> None:
    clock, store = Now(), await open_store(f"sqlite+aiosqlite:///{folder}/posthouse.db")
    hub = Hub(store, clock, {}, Market.name, "bench", stabilization_s=0.0)
    control = Control(ENDPOINTS, "fixed", hub, clock)  # type: ignore[arg-type]
    workers = [worker for those in control.workers.values() for worker in those]
    hub.providers = {Market.name: cast(Provider, Market(control.instances()))}
    stream = EventStream(int(time.time() * 1000))
    publisher = Publisher(stream)
    for managed in list(hub.endpoints.values()):
        await store.add_endpoint(managed.fleet.endpoint)
        hub.add(managed)
        publisher.attach(managed)
    fast = fast_path(hub, record)
    app = web_app(hub, fast.keyring, Limits(), explain=lambda _: None, stream=stream)  # type: ignore[arg-type, return-value]
    os.sched_setaffinity(0, {SERVER_CORE})
    listener = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(fast, app)
    await server.start(listener)
    pipe.send(listener.getsockname()[1])
    sampler = Sampler(hub.endpoints.values, clock.now, store)
    tasks = [asyncio.create_task(control.loop.run()), asyncio.create_task(_look(control))]
    for second in count():
        for worker in workers[second % 10 :: 10]:
            if worker.state is State.IDLE:
                report = Report(max_perf=worker.perf, url=worker.url, version="1.1.0", scheme="U", working=frozenset())
                hub.managed(worker.endpoint_id).handle(Reported(worker.id, report), clock.now())
        if second % 5 == 0:
            await sampler.round()
        server.every_second()
        await asyncio.sleep(1.0)
        if ended := [task for task in tasks if task.done()]:
            raise SystemExit(f"the control loop ended: {ended[0]}")


async def _look(control: Control) -> None:
    """Looks at the provider's list, as often as a server does."""
    while True:
        await control.look()
        await asyncio.sleep(10.0)


class Viewers:
    """Sessions of the console, each with its stream, and how much they were told."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key, self.events = url, key, 0
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Viewers":
        for _ in range(VIEWERS):
            jar = aiohttp.CookieJar(unsafe=True)  # of an address without a name
            session = await self._stack.enter_async_context(aiohttp.ClientSession(cookie_jar=jar))
            async with session.post(f"{self.url}/v1/session", json={"key": self.key}) as reply:
                reply.raise_for_status()
            began = asyncio.Event()
            self._tasks.append(asyncio.create_task(self._watch(session, began)))
            await began.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def _watch(self, session: aiohttp.ClientSession, began: asyncio.Event) -> None:
        timeout = aiohttp.ClientTimeout(total=None)
        async with session.get(f"{self.url}/v1/events?beat_s=5", timeout=timeout) as reply:
            reply.raise_for_status()
            began.set()
            async for piece in reply.content.iter_any():
                self.events += piece.count(b"\nevent: ")


async def beside(port: int, pid: int, key: str, rounds: int, span_s: float) -> dict[str, Any]:
    """`/route/` with and without those who watch, in turn."""
    os.sched_setaffinity(0, {LOAD_CORE})
    bodies = [{"endpoint": f"bench-{n}", "api_key": key, "cost": 1, "request_idx": 0} for n in range(10, ENDPOINTS)]
    asks = cycle([post("/route/", body, key) for body in bodies])

    async def one() -> Seen:
        return await measure(port, pid, lambda: next(asks), span_s)

    alone, watched, told = [await one()], list[Seen](), list[float]()
    for number in range(rounds):
        async with Viewers(f"http://127.0.0.1:{port}", key) as viewers:
            before, began_at = viewers.events, time.perf_counter()
            watched.append(await one())
            told.append((viewers.events - before) / (time.perf_counter() - began_at))
        alone.append(await one())
        print(f"round {number + 1}/{rounds}  alone {alone[-1].cpu_us:.1f} µs  watched {watched[-1].cpu_us:.1f} µs  "
              f"{told[-1]:,.0f} events/s told", flush=True)  # fmt: skip
    pairs = zip(watched, alone, alone[1:], strict=False)
    return {
        "ratio": round(median((a.cpu_us + b.cpu_us) / 2 / it.cpu_us for it, a, b in pairs), 3),
        "alone_cpu_us": round(median(seen.cpu_us for seen in alone), 1),
        "watched_cpu_us": round(median(seen.cpu_us for seen in watched), 1),
        "alone_rps": round(median(seen.rps for seen in alone)),
        "watched_rps": round(median(seen.rps for seen in watched)),
        "events_per_s": round(median(told)),
    }


# -- in a browser ------------------------------------------------------------------------------------------------------

SCROLLS = """async () => {
  const log = document.querySelector('.log [role=log]') ?? document.querySelector('[role=log]');
  const frames = []; let last = performance.now();
  for (let i = 0; i < 120; i++) {
    log.scrollTop = (log.scrollHeight - log.clientHeight) * ((i * 37) % 120) / 120;
    await new Promise(requestAnimationFrame);
    const now = performance.now(); frames.push(now - last); last = now;
  }
  return {frames, rows: log.querySelectorAll('li').length, height: log.scrollHeight};
}"""


async def in_a_browser(folder: Path) -> dict[str, Any]:
    """Milliseconds until the first rows of 100 endpoints are there, and between frames while a log is scrolled."""
    from playwright.async_api import async_playwright

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit("there is no chromium on the PATH: --no-browser leaves that part out")
    async with live_server(folder) as server, AsyncClient(server.url, server.admin_key) as client:
        await add_endpoint(client, "chat", LOUD + AGENT, max_workers=1)
        for number in range(ENDPOINTS - 1):
            await client.create_endpoint(f"endpoint-{number}", min_load=0, cold_workers=0, max_workers=0)
        await ready(server, "chat")
        async with async_playwright() as playwright:
            started = await playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
            page = await started.new_page(viewport={"width": 1280, "height": 800})
            await page.goto(server.url)
            await page.get_by_label("Account key").fill(server.admin_key)
            await page.keyboard.press("Enter")
            await page.locator(".endpoints tbody tr").first.wait_for()
            first_ms = []
            for _ in range(5):
                began_at = time.perf_counter()
                await page.goto(f"{server.url}/console/", wait_until="commit")
                await page.locator(".endpoints tbody tr").first.wait_for()
                first_ms.append((time.perf_counter() - began_at) * 1000)
            chat = server.hub.fleet_named("chat")
            assert chat is not None
            await page.goto(f"{server.url}/console/workers/{next(iter(chat.workers))}")
            await page.get_by_role("log").locator("li").first.wait_for()
            more = page.get_by_role("button", name="100,000")
            if await more.count():
                await more.first.click()
            async with asyncio.timeout(120):
                while await page.evaluate("document.querySelector('[role=log]')?.scrollHeight ?? 0") < LINES * ROW_PX:
                    await asyncio.sleep(0.2)
            await page.wait_for_timeout(1000)
            seen = await page.evaluate(SCROLLS)
            await started.close()
    frames = sorted(seen["frames"])
    return {
        "first_rows_ms": round(median(first_ms)),
        "first_rows_worst_ms": round(max(first_ms)),
        "log_height_px": seen["height"],
        "log_rows_drawn": seen["rows"],
        "log_frame_p50_ms": round(frames[len(frames) // 2], 1),
        "log_frame_p95_ms": round(frames[len(frames) * 95 // 100], 1),
        "log_frame_worst_ms": round(frames[-1], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two short rounds; less exact")
    parser.add_argument("--no-browser", action="store_true", help="leave out what is measured in Chromium")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        raise SystemExit("two cores are needed: one for the server, one for the load")
    rounds, span_s = (2, 1.5) if options.quick else (8, 4.0)
    record, key = Keyring(SECRET, [], lambda _: None).mint("bench", Scope.ADMIN, time.time())
    spawn = mp.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        here, there = spawn.Pipe()
        process = spawn.Process(target=serve, args=(record, folder, there), daemon=True)
        process.start()
        try:
            result: dict[str, Any] = {"route": uvloop.run(beside(here.recv(), process.pid or 0, key, rounds, span_s))}
        finally:
            process.kill()
            process.join()
        os.sched_setaffinity(0, cores)
        if not options.no_browser:
            result["browser"] = asyncio.run(in_a_browser(Path(folder) / "data"))
    result["machine"] = {"is": machine(), "load": round(psutil.getloadavg()[0], 1)}
    result["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    print(json.dumps(result, indent=2))
    met = result["route"]["ratio"] >= BAR
    print(f"{'met' if met else 'MISSED'}: /route/ beside {VIEWERS} sessions {result['route']['ratio']} (>= {BAR})")
    options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
