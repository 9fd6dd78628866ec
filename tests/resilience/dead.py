"""A worker that reports and cannot be reached, and a storm of unmodified clients that ask again without a pause.

`python -m tests.resilience dead --clients 50 --seconds 30`

The server is in this process, for every call of `/route/` is looked at; the clients are in others.
"""

import asyncio
import json
import sys
import tempfile
from bisect import bisect_left
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp

from posthouse.app.running import Running
from posthouse.client import AsyncClient
from posthouse.domain.worker import WorkerId
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.router import Router
from posthouse.fleet.controller import Controller
from posthouse.fleet.events import Assignment
from posthouse.wire.route import RouteAsk
from tests.kit.live import add_endpoint, live_server, pointed, states, until
from tests.kit.puppets import Puppet
from tests.resilience.site import conclude, options

NORMAL_S = 10.0
MIN_SHARE = 0.9
"""Of the normal throughput, for requests of others during the storm."""
MAX_SENT_TO_DEAD = 0.1
"""Share of requests that may be sent to a dead worker where there are others."""
WINDOW_S = 5.0
"""In any span as long as this a request may ask once a second, not only over all of the storm."""
RATE_S = 0.25
"""How long after the one before a healthy request begins, whether or not that one has been answered."""

DEAD = """\
if mkdir "$MARKS/$NAME" 2>/dev/null; then env > draft.txt; mv draft.txt environment.txt; exec sleep 1000; fi
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
        except Exception as error:
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
        self.marks = data_dir.parent / "marks"
        self.dead: list[Puppet] = []

    async def build(self) -> None:
        for name, dead, healthy in (("alone", 1, 0), ("beside", 1, 2), ("elsewhere", 0, 1)):
            count = dead + healthy
            onstart = (DEAD.replace("$MARKS", str(self.marks)).replace("$NAME", name) if dead else "") + ALIVE
            await add_endpoint(
                self.owner, name, onstart, min_load=1900 * count, cold_workers=count, max_workers=count, target_util=1.0
            )
            await self.reached(name, ["idle"] * healthy + ["model_loading"] * dead)
        for path in self.data_dir.glob("workers/*/home/environment.txt"):
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

    async def storm(self, name: str, clients: int, span_s: float, pause_s: float) -> dict[str, Any]:
        """Sends clients to an endpoint; what they tell afterwards."""
        words = (self.server.url, self.server.admin_key, name, clients, span_s, pause_s)
        pipe = asyncio.subprocess.PIPE
        storm = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "ignore", "-c", STORM, *map(str, words), stdout=pipe, stderr=pipe
        )
        said, complaint = await storm.communicate()
        assert storm.returncode == 0, complaint.decode()
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        return found


async def storms(site: Site, clients: int, span_s: float) -> tuple[dict[str, Any], list[str]]:
    clock = asyncio.get_running_loop().time
    routes: dict[int, list[float]] = defaultdict(list)
    sent_to: list[WorkerId] = []
    really_route, really_assign = Router.route, Controller.assign

    def route(self: Router, managed: ManagedEndpoint, ask: RouteAsk, deliver: Any, *others: Any, **named: Any) -> Any:
        def delivered(reply: Any) -> None:
            if managed.fleet.endpoint.name == "alone":
                routes[reply.request_idx].append(clock())
            deliver(reply)

        return really_route(self, managed, ask, delivered, *others, **named)

    def assign(self: Controller, *given: Any, **named: Any) -> Any:
        outcome = really_assign(self, *given, **named)
        if self.endpoint.name == "beside" and isinstance(outcome, Assignment):
            sent_to.append(outcome.worker.id)
        return outcome

    elsewhere, beside = Traffic(), Traffic()
    async with pointed(site.server) as client, asyncio.TaskGroup() as tasks:
        going = [
            tasks.create_task(elsewhere.run(await client.get_endpoint("elsewhere"))),
            tasks.create_task(beside.run(await client.get_endpoint("beside"))),
        ]
        await asyncio.sleep(1)
        began = clock()
        await asyncio.sleep(NORMAL_S)
        normal = [traffic.answered(began, clock()) for traffic in (elsewhere, beside)]
        with patch.object(Router, "route", route), patch.object(Controller, "assign", assign):
            going.append(tasks.create_task(site.report_for_the_dead()))
            await site.reached("alone", ["idle"])
            began = clock()
            alone, healthy = await asyncio.gather(
                site.storm("alone", clients, span_s, 0), site.storm("beside", clients, span_s, 2)
            )
            ended = clock()
        stormy = [traffic.answered(began, ended) for traffic in (elsewhere, beside)]
        for task in going:
            task.cancel()
    dead = {puppet.id for puppet in site.dead}
    asked = list(routes.values())
    shares = [during / before for during, before in zip(stormy, normal, strict=True)]
    figures = {
        "clients": clients,
        "seconds": span_s,
        "requests_with_a_dead_worker_alone": len(asked),
        "routes_of_the_most_asking": max(map(len, asked), default=0),
        f"most_routes_in_{WINDOW_S:g}_s": max(
            (bisect_left(at, since + WINDOW_S) - i for at in asked for i, since in enumerate(at)), default=0
        ),
        "answers_with_others_beside": healthy["answers"],
        "sent_to_the_dead_beside_others": round(sum(w in dead for w in sent_to) / len(sent_to), 4) if sent_to else 0.0,
        "normal_per_s": [round(rate, 2) for rate in normal],
        "during_the_storm_per_s": [round(rate, 2) for rate in stormy],
        "share_of_normal": round(min(shares), 3),
    }
    failures = [*alone["failed"], *healthy["failed"], *elsewhere.failures, *beside.failures]
    violations = [f"a client failed: {failure}" for failure in failures]
    if alone["answers"] or len(asked) != clients:
        violations.append(f"the storm was not as meant: {alone['answers']} answers, {len(asked)} requests")
    if figures["routes_of_the_most_asking"] > span_s or figures[f"most_routes_in_{WINDOW_S:g}_s"] > WINDOW_S:
        violations.append("a request asked more than once a second")
    if not clients < healthy["answers"] == healthy["right"]:
        violations.append(f"beside others, clients got {healthy['right']} answers of {healthy['answers']}")
    if figures["sent_to_the_dead_beside_others"] >= MAX_SENT_TO_DEAD:
        violations.append("requests were sent to a dead worker though there were others")
    if min(shares) <= MIN_SHARE:
        violations.append(f"only {min(shares):.2f} of the normal requests of others were answered")
    return figures, violations


async def run(clients: int, span_s: float) -> tuple[dict[str, Any], list[str]]:
    with tempfile.TemporaryDirectory(prefix="posthouse-drill-") as directory:
        data_dir = Path(directory, "data")
        Path(directory, "marks").mkdir()  # beside: the data directory is hidden from workers
        async with (
            live_server(data_dir) as server,
            AsyncClient(server.url, server.admin_key) as owner,
            aiohttp.ClientSession() as http,
        ):
            site = Site(server, owner, http, data_dir)
            await site.build()
            return await storms(site, clients, span_s)


def main() -> int:
    said = options(__doc__ or "", clients=50, seconds=30.0)
    return conclude("dead", *asyncio.run(run(said.clients, said.seconds)))


if __name__ == "__main__":
    sys.exit(main())
