"""A worker that reports and cannot be reached, and a storm of unmodified clients that ask again without a pause."""

import asyncio
import json
import sys
from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from posthouse.client import AsyncClient
from posthouse.domain.worker import WorkerId
from posthouse.engine.router import Router
from posthouse.fleet.fleet import Fleet
from posthouse.wire.route import RouteAsk
from posthouse.wiring import Running
from tests.contract.live import add_endpoint, live_server, states, until
from tests.contract.test_wire import Puppet

CLIENTS = 50
STORM_S = 30.0
NORMAL_S = 10.0
RATE_S = 0.25
"""How long after the one before a healthy request begins, whether or not that one has been answered."""

DEAD = """\
if mkdir ../dead-$NAME 2>/dev/null; then env > draft.txt; mv draft.txt environment.txt; exec sleep 1000; fi
"""
"""The first worker of its endpoint to come here is dead: nobody listens at its address. The test reports for it."""
ALIVE = """\
"$PYTHON" -m posthouse.demo.model --port "$MODEL_PORT" --tokens-per-s 2000 --slots 8 --load-s 0 &
exec "$PYTHON" -m posthouse agent --upstream "http://127.0.0.1:$MODEL_PORT" --parallel 8 --perf 2000
"""
STORM = """\
import asyncio, json, sys
from vastai import Serverless

url, key, name, clients, span_s, pause_s = sys.argv[1:]
Serverless.SSL_CERT_URL = f"{url}/static/jvastai_root.cer"

async def ask(endpoint, answers):
    while True:
        payload = {"model": "demo", "prompt": "Hello", "max_tokens": 5}
        answer = await endpoint.request("/v1/completions", payload, cost=5)
        answers.append(bool(answer["response"]["choices"]))
        await asyncio.sleep(float(pause_s))

async def main():
    answers = []
    async with Serverless(key, autoscaler_url=url, webserver_url=url) as client:
        endpoint = await client.get_endpoint(name)
        print("begins", flush=True)
        asks = [asyncio.create_task(ask(endpoint, answers)) for _ in range(int(clients))]
        done, running = await asyncio.wait(asks, timeout=float(span_s), return_when=asyncio.FIRST_EXCEPTION)
        for task in running:
            task.cancel()
        failed = [repr(task.exception()) for task in done]
        await asyncio.gather(*asks, return_exceptions=True)
    print(json.dumps({"answers": len(answers), "right": sum(answers), "failed": failed}))

asyncio.run(main())
"""
"""Clients with all their defaults, in a process of their own: none has a timeout, so none gives up."""


class Traffic:
    """Healthy requests at a fixed rate."""

    def __init__(self) -> None:
        self.answered_at: list[float] = []
        self.failures: list[str] = []
        self._requests: set[asyncio.Task[None]] = set()

    async def run(self, endpoint: Any) -> None:
        while True:
            request = asyncio.create_task(self._one(endpoint))
            self._requests.add(request)
            request.add_done_callback(self._requests.discard)
            await asyncio.sleep(RATE_S)

    async def _one(self, endpoint: Any) -> None:
        try:
            answer = await endpoint.request(
                "/v1/completions", {"model": "demo", "prompt": "Hi", "max_tokens": 5}, cost=5
            )
            assert answer["response"]["choices"]
            self.answered_at.append(asyncio.get_running_loop().time())
        except Exception as error:  # whatever it was, it is a failure of healthy traffic
            self.failures.append(repr(error))

    def answered(self, since: float, until: float) -> float:
        """Requests answered per second."""
        return (bisect_left(self.answered_at, until) - bisect_left(self.answered_at, since)) / (until - since)


class Site:
    """A server with three endpoints: `alone` has nothing but a dead worker, `beside` a dead and two healthy ones,
    `elsewhere` a healthy one."""

    def __init__(self, server: Running, owner: AsyncClient, http: aiohttp.ClientSession, data_dir: Path) -> None:
        self.server = server
        self.owner = owner
        self.http = http
        self.data_dir = data_dir
        self.dead: list[Puppet] = []

    async def build(self) -> None:
        for name, dead, healthy in (("alone", 1, 0), ("beside", 1, 2), ("elsewhere", 0, 1)):
            count = dead + healthy
            onstart = (DEAD.replace("$NAME", name) if dead else "") + ALIVE
            await add_endpoint(
                self.owner, name, onstart, min_load=1900 * count, cold_workers=count, max_workers=count, target_util=1.0
            )
            await self.reached(name, ["idle"] * healthy + ["model_loading"] * dead)
        for path in self.data_dir.glob("workers/*/environment.txt"):
            env = dict(line.partition("=")[::2] for line in path.read_text().splitlines())
            url = f"http://{env['PUBLIC_IPADDR']}:{env['VAST_TCP_PORT_' + env['WORKER_PORT']]}"
            self.dead.append(Puppet(self.http, self.server.url, int(env["CONTAINER_ID"]), env["MASTER_TOKEN"], url))
        assert len(self.dead) == 2

    async def reached(self, name: str, wanted: list[str]) -> None:
        await until(lambda: sorted(states(self.server, name)) == wanted, f"{wanted} of {name}")

    async def report_for_the_dead(self) -> None:
        while True:
            for puppet in self.dead:
                status, _ = await puppet.report(max_perf=2000.0)
                assert status == 200
            await asyncio.sleep(1)

    async def storm(self, name: str, pause_s: float) -> dict[str, Any]:
        """Sends `CLIENTS` clients to an endpoint for `STORM_S`; what they tell afterwards."""
        words = (self.server.url, self.server.admin_key, name, CLIENTS, STORM_S, pause_s)
        pipe = asyncio.subprocess.PIPE
        storm = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "ignore", "-c", STORM, *map(str, words), stdout=pipe, stderr=pipe
        )
        said, complaint = await storm.communicate()
        assert storm.returncode == 0, complaint.decode()
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        return found


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    data_dir = tmp_path / "data"
    async with (
        live_server(data_dir) as server,
        AsyncClient(server.url, server.admin_key) as owner,
        aiohttp.ClientSession() as http,
    ):
        site = Site(server, owner, http, data_dir)
        await site.build()
        yield site


@pytest.mark.peer("POST /route/", "C1", does="50 requests of an endpoint whose worker is dead, for 30 s")
async def test_a_storm_at_a_dead_worker_is_slowed_to_a_route_a_second_and_healthy_requests_go_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vastai import Serverless

    clock = asyncio.get_running_loop().time
    routes: dict[tuple[str, int], list[float]] = defaultdict(list)
    sent_to: list[WorkerId] = []
    really_route, really_assign = Router.route_now, Fleet.assign

    def route_now(self: Router, fleet: Fleet, ask: RouteAsk) -> Any:
        outcome = really_route(self, fleet, ask)
        routes[fleet.endpoint.name, outcome.request_idx].append(clock())
        return outcome

    def assign(self: Fleet, idx: int, cost: float, now: float, polls: bool = True) -> Any:
        outcome = really_assign(self, idx, cost, now, polls)
        if self.endpoint.name == "beside" and hasattr(outcome, "worker"):
            sent_to.append(outcome.worker.id)
        return outcome

    class Pointed(Serverless):  # type: ignore[misc]
        SSL_CERT_URL = f"{site.server.url}/static/jvastai_root.cer"

    elsewhere, beside = Traffic(), Traffic()
    key, url = site.server.admin_key, site.server.url
    async with Pointed(key, autoscaler_url=url, webserver_url=url) as client, asyncio.TaskGroup() as tasks:
        going = [
            tasks.create_task(elsewhere.run(await client.get_endpoint("elsewhere"))),
            tasks.create_task(beside.run(await client.get_endpoint("beside"))),
        ]
        await asyncio.sleep(1)
        began = clock()
        await asyncio.sleep(NORMAL_S)
        normal = [traffic.answered(began, clock()) for traffic in (elsewhere, beside)]
        monkeypatch.setattr(Router, "route_now", route_now)
        monkeypatch.setattr(Fleet, "assign", assign)
        going.append(tasks.create_task(site.report_for_the_dead()))
        await site.reached("alone", ["idle"])
        began = clock()
        alone, healthy = await asyncio.gather(site.storm("alone", 0), site.storm("beside", 2))
        ended = clock()
        stormy = [traffic.answered(began, ended) for traffic in (elsewhere, beside)]
        for task in going:
            task.cancel()
    assert alone == {"answers": 0, "right": 0, "failed": []}
    asked = [at for (name, _), at in routes.items() if name == "alone"]
    assert len(asked) == CLIENTS
    assert max(map(len, asked)) <= STORM_S
    # Not even for a moment: in any 5 s, no request asks more than 5 times.
    assert max(bisect_left(at, since + 5) - i for at in asked for i, since in enumerate(at)) <= 5
    # Where there are others, they are chosen: every client goes on as if nothing had happened.
    assert healthy["failed"] == []
    assert healthy["answers"] == healthy["right"] > CLIENTS
    dead = {puppet.id for puppet in site.dead}
    assert sum(worker_id in dead for worker_id in sent_to) < 0.1 * len(sent_to)
    assert elsewhere.failures == beside.failures == []
    assert min(during / before for during, before in zip(stormy, normal, strict=True)) > 0.9
