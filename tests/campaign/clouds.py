"""A Kubernetes cluster and a SkyPilot server that are only remembered, in virtual time, for the providers at them."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextvars import Context
from copy import deepcopy
from itertools import count
from typing import Any

import msgspec

from posthouse.errors import NotFound
from posthouse.providers.kubernetes.api import AlreadyThere
from posthouse.providers.kubernetes.objects import WORKER
from posthouse.providers.skypilot.launch import RUN
from posthouse.providers.skypilot.provider import LAUNCH
from tests.campaign.virtual import VirtualLoop
from tests.campaign.wire import FOREIGN, PORTS, PULL_S, Wire

Json = dict[str, Any]

END_S = 1.0
"""How long a Pod takes to end."""
LAUNCH_S = 20.0
"""How long a machine takes to be there."""
STOP_S = 3.0


class SimCluster(Wire):
    """As much of a cluster as the provider asks of it, with a kubelet."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__(loop)
        self._ids = count(1)
        self.objects: dict[tuple[str, str], Json] = {}
        self.nodes = [
            {
                "metadata": {"name": "node", "labels": {}},
                "spec": {},
                "status": {
                    "allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"},
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            }
        ]
        for kind in ("pods", "configmaps"):
            self.make(kind, {"metadata": {"name": FOREIGN}})

    def make(self, kind: str, body: Json) -> Json:
        """Raises: AlreadyThere."""
        name = body["metadata"]["name"]
        if (kind, name) in self.objects:
            raise AlreadyThere(name)
        made = self.objects[kind, name] = deepcopy(body)
        made["metadata"]["uid"] = f"uid-{next(self._ids)}"
        if kind == "configmaps" and name != FOREIGN:
            self.made.append(name)
        if kind == "pods":
            made["metadata"]["namespace"] = "posthouse"
            made["status"] = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}
            self.loop.call_later(PULL_S, self._run, made)
        return made

    def of(self, kind: str, name: str) -> Json:
        if (kind, name) not in self.objects:
            raise NotFound(f"{kind} {name}")
        return self.objects[kind, name]

    def end(self, kind: str, name: str) -> Json:
        """Removes an object, with those that it owns; a Pod a while later."""
        found = self.of(kind, name)
        if kind == "pods":
            found["metadata"].setdefault("deletionTimestamp", "now")
            self.loop.call_later(END_S, self._drop, kind, name, found)
        else:
            self._drop(kind, name, found)
        return found

    def _drop(self, kind: str, name: str, found: Json) -> None:
        if self.objects.get((kind, name)) is not found:
            return
        del self.objects[kind, name]
        uid = found["metadata"]["uid"]
        for owned, one in list(self.objects.items()):
            if any(owner["uid"] == uid for owner in one["metadata"].get("ownerReferences", ())):
                self.end(*owned)

    def _run(self, pod: Json) -> None:
        if not pod["metadata"].get("deletionTimestamp"):
            number = int(pod["metadata"]["uid"].partition("-")[2])
            pod["status"] |= {"phase": "Running", "podIP": f"10.1.{number // 250}.{number % 250 + 1}"}

    def running(self) -> Iterator[tuple[str, str, str]]:  # type: ignore[override]
        for (kind, name), pod in self.objects.items():
            if kind == "pods" and name != FOREIGN and pod["status"]["phase"] == "Running":
                yield name, pod["metadata"]["uid"], f"{pod['status']['podIP']}:3000"

    def left(self) -> list[str]:
        return sorted(
            str(o["metadata"].get("labels", {}).get(WORKER)) for (_, n), o in self.objects.items() if n != FOREIGN
        )

    def foreign_is_there(self) -> bool:
        return {("pods", FOREIGN), ("configmaps", FOREIGN)} <= self.objects.keys()


class ClusterClient:
    """What `KubernetesProvider` has for a cluster, of one life of the server."""

    url = "https://cluster"

    def __init__(self, cluster: SimCluster) -> None:
        self._cluster = cluster

    async def close(self) -> None: ...

    async def changes(self, path: str, query: Mapping[str, str]) -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield ""

    async def call(
        self, method: str, path: str, body: Json | None = None, accept: str = "", query: Mapping[str, str] | None = None
    ) -> Json:
        await self._cluster.way()
        kind, name, *_ = [*path.split("/")[5:], ""]
        found = deepcopy(self._done(method, kind, name, body or {}, bool(query)))
        await self._cluster.way()
        return found

    def _done(self, method: str, kind: str, name: str, body: Json, dry: bool) -> Json:
        cluster = self._cluster
        if method == "POST":
            return body if dry else cluster.make(kind, body)
        if method == "DELETE":
            return cluster.end(kind, name)
        found = cluster.of(kind, name)
        if method == "PATCH":
            found["metadata"].setdefault("annotations", {}).update(body["metadata"]["annotations"])
            found.setdefault("data", {}).update(body["data"])
        elif method == "PUT":
            found |= {key: deepcopy(value) for key, value in body.items() if key != "metadata"}
        return found

    async def objects(self, path: str, query: Mapping[str, str] | None = None, accept: str = "") -> list[Json]:
        await self._cluster.way()
        kind = path.rpartition("/")[2]
        label, _, value = (query or {}).get("labelSelector", "").partition("=")
        all_of_it = [one for (of_kind, _), one in self._cluster.objects.items() if of_kind == kind]
        found = [one for one in all_of_it if not label or one["metadata"].get("labels", {}).get(label) == value]
        answer = deepcopy(self._cluster.nodes if kind == "nodes" else found)
        await self._cluster.way()
        return answer

    async def text(self, path: str, query: Mapping[str, str]) -> str:
        await self._cluster.way()
        return ""


class SimSky(Wire):
    """As much of SkyPilot's server as the provider asks of it. What it was asked for goes on, whoever waits for it."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__(loop)
        self._ids = count(1)
        self.clusters: dict[str, Json] = {FOREIGN: {"status": "UP", "port": 1, "began": 0.0}}
        self.requests: dict[str, tuple[str, str, asyncio.Task[Any]]] = {}
        """By id: the path, the cluster, and the work."""

    def ask(self, path: str, body: Mapping[str, Any]) -> str:
        """The id of a new request."""
        number = f"r{next(self._ids)}"
        work = getattr(self, f"do{path.replace('/', '_')}")(body)
        self.requests[number] = path, str(body.get("cluster_name")), self.loop.create_task(work, context=Context())
        return number

    def of(self, name: str) -> Json:
        if name not in self.clusters:
            raise NotFound(f"cluster {name}")
        return self.clusters[name]

    def running(self) -> Iterator[tuple[str, str, str]]:  # type: ignore[override]
        for name, cluster in self.clusters.items():
            if name != FOREIGN and cluster["status"] == "UP" and cluster["began"] is not None:
                yield name, str(cluster["began"]), f"127.0.0.1:{cluster['port']}"

    def left(self) -> list[str]:
        return sorted(self.clusters.keys() - {FOREIGN})

    def foreign_is_there(self) -> bool:
        return self.clusters.get(FOREIGN, {}).get("status") == "UP"

    async def do_enabled_clouds(self, body: Mapping[str, Any]) -> list[str]:
        return ["AWS"]

    async def do_list_accelerators(self, body: Mapping[str, Any]) -> Json:
        return {"L4": [["AWS", "g6.xlarge", "L4", 1.0, 4.0, 24.0, 16.0, 0.8, None, "us-east-1"]]}

    async def do_launch(self, body: Mapping[str, Any]) -> None:
        name = body["cluster_name"]
        if name not in self.clusters:
            self.made.append(name)
            self.clusters[name] = {"status": "INIT", "port": next(PORTS), "began": None}
            await asyncio.sleep(LAUNCH_S)
            self.of(name)["status"] = "UP"

    async def do_exec(self, body: Mapping[str, Any]) -> None:
        assert msgspec.json.decode(body["task"])["name"] == RUN
        self.of(body["cluster_name"])["began"] = self.loop.time()

    async def do_start(self, body: Mapping[str, Any]) -> None:
        await asyncio.sleep(STOP_S)
        self.of(body["cluster_name"])["status"] = "UP"

    async def do_stop(self, body: Mapping[str, Any]) -> None:
        await asyncio.sleep(STOP_S)
        self.of(body["cluster_name"]).update(status="STOPPED", began=None)

    async def do_down(self, body: Mapping[str, Any]) -> None:
        await asyncio.sleep(STOP_S)
        self.of(body["cluster_name"])
        del self.clusters[body["cluster_name"]]

    async def do_status(self, body: Mapping[str, Any]) -> list[Json]:
        names = body["cluster_names"]
        found = {name: c for name, c in self.clusters.items() if names is None or name in names}
        return [{"name": name, "status": c["status"], "init_kind": "launching"} for name, c in found.items()]

    async def do_queue(self, body: Mapping[str, Any]) -> list[Json]:
        began = self.of(body["cluster_name"])["began"]
        return [] if began is None else [{"job_id": 1, "job_name": RUN, "status": "RUNNING"}]

    async def do_endpoints(self, body: Mapping[str, Any]) -> dict[str, str]:
        return {"3000": f"127.0.0.1:{self.of(body['cluster'])['port']}"}

    async def do_api_cancel(self, body: Mapping[str, Any]) -> None:
        for number in body["request_ids"]:
            self.requests[number][2].cancel()


class SkyClient:
    """What `SkypilotProvider` has for it, of one life of the server."""

    troubles: dict[str, str] = {}  # noqa: RUF012 - nothing is ever wrong with it

    def __init__(self, sky: SimSky) -> None:
        self._sky = sky

    async def close(self) -> None: ...

    async def send(self, path: str, body: Mapping[str, Any] | None = None) -> str:
        await self._sky.way()
        number = self._sky.ask(path, body or {})
        await self._sky.way()
        return number

    async def outcome(self, number: str, wait_s: float | None = None) -> Any:
        task = self._sky.requests[number][2]
        async with asyncio.timeout(wait_s):
            await asyncio.wait([task])
            await self._sky.way()
        if task.cancelled():
            raise NotFound(f"request {number} was cancelled")
        return task.result()

    async def call(self, path: str, body: Mapping[str, Any]) -> Any:
        return await self.outcome(await self.send(path, body))

    async def get(self, path: str, query: Mapping[str, str]) -> Any:
        await self._sky.way()
        rows = [
            {"name": LAUNCH, "status": "RUNNING", "cluster_name": name, "request_id": number}
            for number, (asked, name, task) in self._sky.requests.items()
            if asked == "/launch" and not task.done()
        ]
        await self._sky.way()
        return rows

    async def text(self, path: str, body: Mapping[str, Any]) -> str:
        await self._sky.way()
        return ""
