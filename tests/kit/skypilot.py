"""A double of SkyPilot's API server: its calls, its requests with ids, and clusters that are folders with processes.

It was written after the answers of a server 0.14.1 without an account, to which a test compares it, and after its
source. A job of a cluster is a shell of this machine.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from posthouse.ports import Provider
from tests.kit.ports import free_port
from tests.kit.provider_contract import opened_provider

TOKEN = "sky_token"
CATALOG = {
    "L4": [["AWS", "g6.xlarge", "L4", 1.0, 4.0, 24.0, 16.0, 0.80, 0.30, "us-east-1"]],
    "A100": [
        ["RunPod", "1x_A100_SECURE", "A100", 1.0, 8.0, 80.0, 80.0, 1.60, None, "CA"],
        ["Lambda", "gpu_1x_a100", "A100", 1, 30.0, 40.0, 200.0, 1.29, None, "us-east-1"],
        ["GCP", "a2-highgpu-1g", "A100", 0.5, 12.0, 40.0, 85.0, 1.50, 0.5, "us-central1"],
    ],
}
"""Rows as its catalogue has them: the third has no spot price, the last a share of a GPU."""


@dataclass
class Job:
    number: int
    name: str
    process: subprocess.Popen[bytes]
    log: Path
    cancelled: bool = False

    @property
    def status(self) -> str:
        if self.cancelled:
            return "CANCELLED"
        code = self.process.poll()
        return "RUNNING" if code is None else "FAILED" if code else "SUCCEEDED"

    def end(self) -> None:
        self.cancelled = self.cancelled or self.process.poll() is None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Cluster:
    name: str
    home: Path
    resources: dict[str, Any]
    places: dict[str, int]
    status: str = "INIT"
    init_kind: str = "launching"
    jobs: list[Job] = field(default_factory=list)


class SkyServer:
    """The server, in this process."""

    def __init__(self, root: Path, clouds: tuple[str, ...] = ("AWS", "RunPod", "Lambda")) -> None:
        self.root, self.clouds, self.url = root, clouds, ""
        self.token = True
        """Whether it asks for one; one that does not refuses a token."""
        self.catalog: dict[str, list[list[Any]]] = {name: [*rows] for name, rows in CATALOG.items()}
        self.clusters: dict[str, Cluster] = {}
        self.requests: dict[str, dict[str, Any]] = {}
        self.calls: Counter[str] = Counter()
        self.launch_s = 0.0
        self.fails: dict[str, tuple[str, str]] = {}
        """By path: the type and the message of the error that its requests come to."""
        self.lost: set[str] = set()
        """Paths that do what they are asked, and answer nothing."""
        self.busy: set[str] = set()
        """Requests whose outcome it is too busy to tell."""
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        self.calls[path] += 1
        if request.headers.get("Authorization") != (f"Bearer {TOKEN}" if self.token else None):
            return web.json_response({"detail": "Service account authentication disabled"}, status=401)
        body = await request.json() if request.can_read_body else {}
        if path == "/api/get":
            return await self._get(request.query["request_id"])
        if path == "/api/status":
            return web.json_response([r for r in self.requests.values() if r["status"] in ("PENDING", "RUNNING")])
        if path == "/logs":
            return self._logs(body)
        work: Callable[[dict[str, Any]], Awaitable[Any]] | None = {
            "/status": self._status,
            "/launch": self._launch,
            "/exec": self._exec,
            "/start": self._start,
            "/stop": self._stop,
            "/down": self._down,
            "/queue": self._queue,
            "/endpoints": self._endpoints,
            "/list_accelerators": self._accelerators,
            "/enabled_clouds": self._enabled,
            "/api/cancel": self._cancel,
        }.get(path)
        if work is None:
            return web.json_response({"detail": "Not Found"}, status=404)
        number = str(uuid.uuid4())
        row = {"request_id": number, "name": f"sky{path.replace('/', '.')}", "status": "RUNNING", "error": None}
        self.requests[number] = row | {"cluster_name": body.get("cluster_name"), "return_value": None}
        self._tasks[number] = asyncio.create_task(self._run(self.requests[number], path, work(body)))
        if path in self.lost:
            await asyncio.sleep(0.05)
            assert request.transport is not None
            request.transport.close()
        return web.json_response(None, headers={"X-SkyPilot-Request-ID": number})

    async def _run(self, row: dict[str, Any], path: str, work: Awaitable[Any]) -> None:
        try:
            if path in self.fails:
                raise Failed(*self.fails[path])
            row["return_value"] = json.dumps(await work)
            row["status"] = "SUCCEEDED"
        except Failed as error:
            row["error"] = json.dumps({"object": "gASV", "type": error.kind, "message": error.message})
            row["status"] = "FAILED"
        except asyncio.CancelledError:
            row["error"] = json.dumps({"object": "gASV", "type": "RequestCancelled", "message": "cancelled"})
            row["status"] = "CANCELLED"
        finally:
            getattr(work, "close", lambda: None)()

    async def _get(self, number: str) -> web.Response:
        if number not in self.requests:
            return web.json_response({"detail": f"Request {number!r} not found"}, status=404)
        if number in self.busy:
            return web.json_response({"detail": "busy"}, status=503)
        await asyncio.wait([self._tasks[number]])
        row = self.requests[number]
        if row["status"] == "SUCCEEDED":
            return web.json_response(row)
        return web.json_response({"detail": row}, status=500)

    # -- what requests do --------------------------------------------------------------------------------------------

    def _named(self, name: str) -> Cluster:
        if name not in self.clusters:
            raise Failed("ClusterDoesNotExist", f"Cluster {name!r} does not exist.")
        return self.clusters[name]

    def _up(self, name: str) -> Cluster:
        cluster = self._named(name)
        if cluster.status != "UP":
            raise Failed("ClusterNotUpError", f"Cluster {name!r} is not up.")
        return cluster

    async def _status(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        wanted = body.get("cluster_names")
        found = [c for c in self.clusters.values() if wanted is None or c.name in wanted]
        return [
            {"name": c.name, "status": c.status, "autostop": -1, "nodes": 1, "labels": {}}
            | ({"init_kind": c.init_kind} if c.status == "INIT" else {})
            for c in found
        ]

    async def _launch(self, body: dict[str, Any]) -> list[Any]:
        task, name = json.loads(body["task"]), body["cluster_name"]
        cluster = self.clusters.get(name)
        if cluster is None:
            home = self.root / name
            home.mkdir(parents=True)
            places = {port: free_port() for port in task["resources"]["ports"]}
            cluster = self.clusters[name] = Cluster(name, home, task["resources"], places)
            await asyncio.sleep(self.launch_s)
            cluster.status = "UP"
        return [self._job(cluster, task), None]

    async def _exec(self, body: dict[str, Any]) -> list[Any]:
        return [self._job(self._up(body["cluster_name"]), json.loads(body["task"])), None]

    def _job(self, cluster: Cluster, task: dict[str, Any]) -> int:
        number = len(cluster.jobs) + 1
        log = self.root / f"{cluster.name}-{number}.log"
        ports = [*cluster.places.values()]
        environ = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        environ |= {"HOME": str(cluster.home), "WORKER_PORT": str(ports[0])}
        environ |= {"WORKER_HTTP_PORT": str(free_port()), "MODEL_PORT": str(free_port())}
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", task["run"]],
                cwd=cluster.home,
                env=environ,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        cluster.jobs.append(Job(number, task["name"], process, log))
        return number

    async def _start(self, body: dict[str, Any]) -> None:
        self._named(body["cluster_name"]).status = "UP"

    async def _stop(self, body: dict[str, Any]) -> None:
        cluster = self._named(body["cluster_name"])
        if not cluster.resources["infra"].startswith("aws"):
            raise Failed("NotSupportedError", "Stopping not supported.")
        for job in cluster.jobs:
            job.end()
        cluster.status = "STOPPED"

    async def _down(self, body: dict[str, Any]) -> None:
        cluster = self._named(body["cluster_name"])
        for job in cluster.jobs:
            job.end()
        self.clusters.pop(cluster.name, None)
        shutil.rmtree(cluster.home, ignore_errors=True)

    async def _queue(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        jobs = self._up(body["cluster_name"]).jobs
        return [{"job_id": j.number, "job_name": j.name, "status": j.status} for j in jobs]

    async def _endpoints(self, body: dict[str, Any]) -> dict[str, str]:
        places = self._up(body["cluster"]).places
        return {port: f"127.0.0.1:{reached}" for port, reached in places.items()}

    async def _accelerators(self, body: dict[str, Any]) -> dict[str, list[list[Any]]]:
        found = {gpu: [r for r in rows if r[0].lower() in body["clouds"]] for gpu, rows in self.catalog.items()}
        return {gpu: rows for gpu, rows in found.items() if rows}

    async def _enabled(self, body: dict[str, Any]) -> list[str]:
        return [*self.clouds]

    async def _cancel(self, body: dict[str, Any]) -> list[str]:
        for number in body["request_ids"]:
            self._tasks[number].cancel()
        return [*body["request_ids"]]

    def _logs(self, body: dict[str, Any]) -> web.Response:
        cluster = self.clusters[body["cluster_name"]]
        lines = cluster.jobs[body["job_id"] - 1].log.read_text(errors="replace").splitlines(keepends=True)
        return web.Response(text="".join(lines[-body["tail"] :]))

    def clear(self) -> None:
        """Ends every request and every job."""
        for task in self._tasks.values():
            task.cancel()
        for cluster in self.clusters.values():
            for job in cluster.jobs:
                job.end()


class Failed(Exception):
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


@asynccontextmanager
async def sky_server(root: Path, **given: Any) -> AsyncIterator[SkyServer]:
    """The double, listening."""
    server = SkyServer(root, **given)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        server.clear()
        await runner.cleanup()


def provider_at(url: str, **table: Any) -> AbstractAsyncContextManager[Provider]:
    return opened_provider("skypilot", {"url": url, "token": TOKEN, "call_s": 20.0, "launch_s": 2.0} | table)
