"""The real engine and the real provider at a simulated market, in virtual time: a day of calls and of money."""

import asyncio
import logging
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import msgspec
import structlog
from aiohttp import web

from posthouse.config import Money
from posthouse.domain.endpoint import EndpointId
from posthouse.domain.reports import Ended, Report
from posthouse.engine.management.inputs import EndpointChanges, NewEndpoint, NewTemplate, NewWorkergroup
from posthouse.market.faults import Faults
from posthouse.market.local import NoRunner
from posthouse.market.model import MICRO, Rental
from posthouse.market.server import Api
from posthouse.market.world import Market
from posthouse.providers.plugin import Context
from posthouse.providers.vast import VastProvider
from posthouse.providers.vast.settings import VastSettings
from posthouse.providers.wrappers import Breaker, Throttled
from tests.campaign.checks import Checks
from tests.campaign.disk import Disk
from tests.campaign.server import Server
from tests.campaign.virtual import VirtualLoop
from tests.campaign.world import SimInstance, World

KEY = "renter"
STARTED_AT = 1.7e9
HOUR_S = 3600.0
REPORT_S = 10.0
LIST_S = 10.0
"""How long a list may take, of nine pages one a second."""
STEPS_H = 6
"""How often in an hour another number of workers is wanted: they come a sixth of all at a time."""
PERF = 100.0
CRASH_SETTLES_S = 900.0
LOAD_S = 40.0
"""From an instance that runs to a model that is loaded."""
MARKET: Mapping[str, Any] = {
    "schedule_s": 5.0,
    "pull_s": 60.0,
    "stop_s": 5.0,
    "start_s": 5.0,
    "searches_per_day": 15_000,
}


class _Request:
    """As much of a request as the market reads."""

    def __init__(
        self, method: str, path: str, body: Mapping[str, Any] | None, query: Mapping[str, str], match: dict[str, str]
    ) -> None:
        self.method, self.path, self.query, self.match_info, self._body = method, path, query, match, body
        self.headers = {"Authorization": f"Bearer {KEY}"}
        self.can_read_body = body is not None

    async def json(self) -> Any:
        return msgspec.json.decode(msgspec.json.encode(self._body))


class Shop:
    """What the server of the campaign takes for its world: the provider, and workers that report."""

    name = "market"
    thorough = False
    poll_s = 10.0
    catalog_s = 120.0

    def __init__(self, api: Api, loop: VirtualLoop, latency_s: tuple[float, float]) -> None:
        self.random, self.loop, self.api = Random(1), loop, api
        self.renew()
        self._latency_s = latency_s
        self._ran: dict[int, tuple[int, float]] = {}
        """By instance: its epoch, and since when it has run in it."""
        self._routes = [
            (method, re.compile(path.replace("{id}", "(?P<id>[0-9]+)")), api._guarded(limit, handler))
            for method, path, limit, handler in api._table()
        ]
        self.tell: Any = lambda instance, message: None
        self.counts: Counter[str] = Counter()
        self.most = 0

    def renew(self) -> None:
        """A server that begins knows nothing of what another one asked."""
        settings = VastSettings(api_key=KEY, url=f"http://market-{id(self)}", image="demo/image")
        provider = VastProvider(settings, Context(self.name, "disk", Path()))
        provider._client._exchange = self._exchange  # type: ignore[method-assign]  # no network in virtual time
        self._provider = Breaker(Throttled(provider, 0.0))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    def hit(self, kind: str) -> bool:
        return False

    async def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None, query: Mapping[str, str] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """As over a network whose answers take their time, both ways."""
        await asyncio.sleep(self.random.uniform(*self._latency_s))
        path = path.rstrip("/")
        handle, match = next(
            (handle, match)
            for verb, pattern, handle in self._routes
            if verb == method and (match := pattern.fullmatch(path))
        )
        request = _Request(method, path, body, query or {}, match.groupdict())
        response = await handle(cast(web.Request, request))
        await asyncio.sleep(self.random.uniform(*self._latency_s))
        assert isinstance(response, web.Response)
        return response.status, response.headers, cast(bytes, response.body or b"")

    async def report(self) -> None:
        """Has every worker report, forever."""
        while True:
            await asyncio.sleep(REPORT_S)
            market = self.api.market
            market.advance(self.api.now())
            self.most = max(self.most, len(market.rentals))
            for rental in list(market.rentals.values()):
                if rental.actual == "running":
                    self._report(rental)

    def _report(self, rental: Rental) -> None:
        assert rental.label
        now = self.loop.time()
        if self._ran.get(rental.id, (-1, 0.0))[0] != rental.epoch:
            self._ran[rental.id] = rental.epoch, now
        loaded = now - self._ran[rental.id][1] >= LOAD_S
        worker = SimpleNamespace(worker_id=int(rental.label.rpartition("-")[2]))
        url = f"http://{rental.machine.ip}:{rental.ports[3000]}"
        report = Report(max_perf=PERF if loaded else 0.0, url=url, version="campaign", scheme="U")
        self.tell(worker, report)


class NoChecks(Checks):
    """Those of the campaign know its own world alone."""

    def begin(self, hub: Any, world: Any) -> None: ...
    def told(self, instance: SimInstance) -> None: ...
    def heard(self, instance: SimInstance, message: Report | Ended) -> None: ...
    def look(self, endpoint_id: Any) -> None: ...
    def end(self) -> None: ...


class Day:
    """What a day was like."""

    def __init__(self, hours: float, workers: int, seed: int = 1, **faults: Any) -> None:
        """Lives through it: `workers` are wanted, every other hour three quarters of them."""
        self.loop = loop = VirtualLoop()
        market = Market(NoRunner(), STARTED_AT, 4 * workers, seed, Faults(**{**MARKET, **faults}))
        self.api = Api(market, {KEY: "all"}, lambda: STARTED_AT + loop.time(), seed)
        self.shop = Shop(self.api, loop, (0.02, 0.3))
        self._hours, self._workers = hours, workers
        logs = structlog.get_config()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        time = SimpleNamespace(
            perf_counter=loop.time, clock_gettime=lambda which: loop.time(), time=lambda: STARTED_AT + loop.time()
        )
        try:
            with patch("posthouse.engine.clock.time", time), patch("posthouse.engine.loop.time", time):
                loop.run_until_complete(self._live())
        finally:
            structlog.configure(**logs)
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(self.shop.close())
            loop.close()

    async def _live(self) -> None:
        server, endpoint_id = await self._begin()
        reporting = asyncio.create_task(self.shop.report())
        self.ready: list[int] = []
        for step in range(round(self._hours * STEPS_H)):
            share = min(1.0, (step + 1) / STEPS_H) if step // STEPS_H % 2 == 0 else 0.75
            changes = EndpointChanges.model_validate({"min_load": 0.9 * PERF * self._workers * share})
            await server.call(server.management.endpoints.update(endpoint_id, changes))
            await asyncio.sleep(HOUR_S / STEPS_H)
            fleet = server.hub.endpoints[endpoint_id].fleet
            self.ready.append(sum(w.state == "idle" for w in fleet.workers.values()))
        self.usd = fleet.spent_usd(server.hub.clock.now())
        self.market_usd = self.api.market.spent_usd()
        self.unclear_usd = self._unclear_usd()
        self.counters = server.executor.counts
        reporting.cancel()
        server.kill()

    def _unclear_usd(self) -> float:
        """By how much it can be counted wrong at most: what begins or ends costs another price from then on, and is
        seen at the next list."""
        bills = self.api.market.bills().values()
        return sum(2 * r.price / MICRO * (self.shop.poll_s + LIST_S) / HOUR_S for r in bills)

    async def _begin(self) -> tuple[Server, EndpointId]:
        """A server with an endpoint that wants no worker yet."""
        self.disk = Disk()
        server = await self._server()
        management = server.management
        await server.call(management.templates.create(NewTemplate(name="t", image="v1", env="-p 3000:3000")))
        wanted = {"min_load": 0, "cold_mult": 1, "cold_workers": 0, "max_workers": 500}
        new = NewEndpoint.model_validate({"endpoint_name": "llm", **wanted})
        await server.call(management.endpoints.create(new))
        await server.call(management.workergroups.create(NewWorkergroup(endpoint_name="llm", template_id=1)))
        [endpoint_id] = server.hub.endpoints
        return server, endpoint_id

    async def _server(self) -> Server:
        server = Server(cast(World, self.shop), self.disk, NoChecks(), tick_s=10.0)
        await server.start()
        server.hub.treasury.caps = Money()
        return server


class Crash(Day):
    """A server that is killed so many steps of its tasks after workers were wanted, and another one in its place."""

    def __init__(self, workers: int, steps: int, **faults: Any) -> None:
        self._steps = steps
        super().__init__(0, workers, **faults)

    async def _live(self) -> None:
        server, endpoint_id = await self._begin()
        reporting = asyncio.create_task(self.shop.report())
        killed = asyncio.Event()

        def kill() -> None:
            workers = server.hub.endpoints[endpoint_id].fleet.workers.values()
            self.was_ready = sum(w.state == "idle" for w in workers) == self._workers
            server.kill()
            killed.set()

        changes = EndpointChanges.model_validate({"min_load": 0.9 * PERF * self._workers})
        await server.call(server.management.endpoints.update(endpoint_id, changes))
        self.loop.after_steps = self.loop.steps + self._steps, kill
        await killed.wait()
        self.had_rented = len(self.api.market.rentals)
        self.shop.renew()
        server = await self._server()
        await asyncio.sleep(CRASH_SETTLES_S)
        workers = server.hub.endpoints[endpoint_id].fleet.workers.values()
        self.idle = sorted(w.instance_id for w in workers if w.state == "idle")
        self.rented = sorted(map(str, self.api.market.rentals))
        self.labels = [rental.label for rental in self.api.market.bills().values()]
        await server.call(server.management.endpoints.delete(endpoint_id))
        await asyncio.sleep(CRASH_SETTLES_S)
        self.left = list(self.api.market.rentals)
        reporting.cancel()
        server.kill()


def broken(crash: Crash) -> list[str]:
    """What is not as it should be some minutes after a crash."""
    rules = {
        "the workers that are wanted are there": len(crash.idle) == 2,
        "what is rented is what is wanted": crash.idle == crash.rented,
        "nothing is rented twice": len(set(crash.labels)) == len(crash.labels),
        "nothing is left": crash.left == [],
    }
    return [rule for rule, holds in rules.items() if not holds]


def crashes(stride: int) -> Iterator[tuple[int, Crash]]:
    """Of a server that rents two, one at every `stride`th step until both are ready."""
    for steps in count(1, stride):
        crash = Crash(2, steps)
        if crash.was_ready:
            return
        yield steps, crash


if __name__ == "__main__":
    if sys.argv[1] == "crashes":
        wrong, total = 0, 0
        for steps, crash in crashes(int(sys.argv[2])):
            total += 1
            if found := broken(crash):
                wrong += 1
                print(steps, "; ".join(found), flush=True)
            if total % 100 == 0:
                print(f"{total} crashes so far, {wrong} of them broke a rule", flush=True)
        print(f"{total} crashes, {wrong} of them broke a rule")
        raise SystemExit(bool(wrong))
    day = Day(float(sys.argv[1]), int(sys.argv[2]), offline_h=0.02, churn_h=0.2, move_h=0.2)
    print(f"ready {day.ready}\ncounted ${day.usd:.4f}, billed ${day.market_usd:.4f}\ncalls {dict(day.api.calls)}")
