"""Puppet workers: real instances whose reports a test sends itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from posthouse.app.running import Running
from posthouse.client import AsyncClient
from posthouse.domain.lifecycle import Goal, State
from tests.kit.live import add_endpoint, states, until

PUPPET = "env > draft.txt; mv draft.txt environment.txt; exec sleep 1000"


@dataclass
class Puppet:
    """A worker that does what the test says."""

    http: aiohttp.ClientSession
    base: str
    id: int
    token: str
    url: str

    async def post(self, path: str, body: Any, token: str | None = None) -> tuple[int, Any]:
        prefix = "" if token is None else f"/w/{token}"
        async with self.http.post(f"{self.base}{prefix}{path}", json=body) as reply:
            return reply.status, await reply.json()

    def form(self, generation: str, **changes: Any) -> dict[str, Any]:
        """A report that says "ready", as that generation sends it."""
        w1 = {
            "id": self.id,
            "loadtime": 1.0,
            "cur_load": 0.0,
            "error_msg": "",
            "max_perf": 100.0,
            "cur_perf": 0.0,
            "cur_capacity": 0,
            "max_capacity": 0,
            "num_requests_working": 0,
            "num_requests_recieved": 0,
            "additional_disk_usage": 0.0,
            "url": self.url,
        }
        w2 = w1 | {"rej_load": 0.0, "new_load": 0.0, "working_request_idxs": []}
        forms: dict[str, dict[str, Any]] = {
            "W0": {
                "id": str(self.id),
                "mtoken": self.token,
                "loaded": True,
                "loadtime": 3.0,
                "cur_perf": 0.0,
                "max_perf": 100.0,
                "avg_latency": 1.0,
            },
            "W1": w1,
            "W2": w2,
            "W3": w2 | {"version": "0.2.0", "mtoken": self.token},
            "W4": w2 | {"version": "1.1.0", "mtoken": self.token, "disk_usage": 1.0},
        }
        return forms[generation] | changes

    async def report(self, generation: str = "W4", **changes: Any) -> tuple[int, Any]:
        """Reports at the address that a worker of ours is given, which carries its token."""
        return await self.post("/worker_status/", self.form(generation, **changes), self.token)


async def puppets(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession, data_dir: Path, count: int = 1, name: str = "llm"
) -> list[Puppet]:
    """An endpoint with `count` puppets that run and have not reported yet."""
    await add_endpoint(owner, name, onstart=PUPPET, cold_workers=count, max_workers=count, min_load=80 * count)
    await until(lambda: states(server, name).count("model_loading") == count, "the puppets run")
    fleet = server.hub.fleet_named(name)
    assert fleet is not None
    found = []
    for worker in fleet.workers.values():
        path = data_dir / "workers" / worker.label / "home" / "environment.txt"
        await until(path.exists, "the puppet told all")
        env = dict(line.partition("=")[::2] for line in path.read_text().splitlines())
        assert int(env["CONTAINER_ID"]) == worker.id
        url = f"http://{env['PUBLIC_IPADDR']}:{env['VAST_TCP_PORT_' + env['WORKER_PORT']]}"
        found.append(Puppet(http, server.url, worker.id, env["MASTER_TOKEN"], url))
    return found


async def two_ready(server: Running, owner: AsyncClient, http: aiohttp.ClientSession, data_dir: Path) -> list[Puppet]:
    """Two puppets that take requests."""
    both = await puppets(server, owner, http, data_dir, count=2)
    for puppet in both:
        assert (await puppet.report())[0] == 200
    fleet = server.hub.fleet_named("llm")
    assert fleet is not None
    await until(
        lambda: [(w.state, w.goal) for w in fleet.workers.values()] == [(State.IDLE, Goal.HOT)] * 2,
        "both take requests",
    )
    return both


async def route(http: aiohttp.ClientSession, server: Running, body: dict[str, Any]) -> tuple[int, Any]:
    async with http.post(f"{server.url}/route/", json={"api_key": server.admin_key, **body}) as reply:
        assert reply.headers["Content-Type"] == "application/json"
        return reply.status, await reply.json()
