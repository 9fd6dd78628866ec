"""A node of a test's cluster, played: it takes every Pod, runs it as a process of this machine and says how it goes.

Paths of a Pod are folders of the test; its network is this machine's, so that a worker listens at its outside port.
"""

import asyncio
import base64
import datetime
import json
import os
import re
import shutil
import signal
import ssl
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.kit.kubernetes_cluster import ADMIN, Cluster
from tests.kit.ports import free_port

Json = dict[str, Any]
LAST_BYTES = 2048
MERGE = {"Content-Type": "application/strategic-merge-patch+json"}


class Kubelet:
    """A node that is there while the context lasts, in a thread of its own. `hold`: names of Pods that are left
    alone after they are bound."""

    def __init__(self, cluster: Cluster, folder: Path, name: str = "node-1", **labels: str) -> None:
        self.name = name
        self.labels = {key.replace("__", "/"): value for key, value in labels.items()}
        self.full = ""
        """Why no Pod finds a node; empty if each does."""
        self.hold: set[str] = set()
        self._cluster = cluster
        self._folder = folder
        self._port = free_port()
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._known: set[str] = set()
        self._ending: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._http: aiohttp.ClientSession

    def __enter__(self) -> "Kubelet":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result(60)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _begin(self) -> None:
        headers = {"Authorization": f"Bearer {self._cluster.tokens[ADMIN]}"}
        self._http = aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(ssl=False))
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        self._site = web.AppRunner(app, access_log=None)
        await self._site.setup()
        await web.TCPSite(self._site, "127.0.0.1", self._port, ssl_context=certificate(self._folder)).start()
        self.status = node_status(self._port)
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": self.labels}}
        await self._ask("POST", "/api/v1/nodes", node)
        await self._ask("PATCH", f"/api/v1/nodes/{self.name}/status", {"status": self.status})
        # The API server taints what is new until a controller, which is not here, finds it ready.
        await self._ask("PATCH", f"/api/v1/nodes/{self.name}", {"spec": {"taints": []}}, "application/merge-patch+json")
        self._tasks = {asyncio.create_task(self._watch())}

    async def _end(self) -> None:
        for process in self._running.values():
            kill(process, signal.SIGKILL)
        await asyncio.gather(*(process.wait() for process in self._running.values()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._site.cleanup()
        await self._http.close()
        await asyncio.sleep(1)  # TLS connections take their leave of the other side before they are gone

    async def _ask(self, method: str, path: str, body: Json | None = None, kind: str = MERGE["Content-Type"]) -> Json:
        headers = {"Content-Type": kind if method == "PATCH" else "application/json"}
        async with self._http.request(method, f"{self._cluster.url}{path}", json=body, headers=headers) as answer:
            found: Json = await answer.json(content_type=None)
            return found

    async def _watch(self) -> None:
        """Takes in every change of a Pod."""
        while True:
            with suppress(aiohttp.ClientError, ValueError, KeyError):
                listed = await self._ask("GET", "/api/v1/pods")
                for pod in listed["items"]:
                    self._spawn(self._take_in(pod))
                query = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
                url = f"{self._cluster.url}/api/v1/pods"
                async with self._http.get(url, params=query, timeout=aiohttp.ClientTimeout(None)) as answer:
                    async for line in answer.content:
                        event = json.loads(line)
                        if event["type"] in ("ADDED", "MODIFIED"):
                            self._spawn(self._take_in(event["object"]))
                        elif event["type"] == "ERROR":
                            break
            await asyncio.sleep(0.05)

    def look_again(self) -> None:
        """Goes over every Pod now, as after a change of `full` or `hold`."""

        async def look() -> None:
            for pod in (await self._ask("GET", "/api/v1/pods"))["items"]:
                self._spawn(self._take_in(pod))

        asyncio.run_coroutine_threadsafe(look(), self._loop).result(60)

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take_in(self, pod: Json) -> None:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{name}"
        bound = pod["spec"].get("nodeName")
        if pod["metadata"].get("deletionTimestamp"):
            if bound == self.name and uid not in self._ending and name not in self.hold:
                self._ending.add(uid)
                await self._stop(uid, pod["metadata"].get("deletionGracePeriodSeconds", 0))
                now_at_last = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
                await self._ask("DELETE", path, now_at_last | {"preconditions": {"uid": uid}})
        elif not bound and self.full:
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": self.full}
            if pod["status"].get("conditions") is None:
                await self._ask("PATCH", f"{path}/status", {"status": {"conditions": [condition]}})
        elif not bound:
            target = {"apiVersion": "v1", "kind": "Node", "name": self.name}
            body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "uid": uid}, "target": target}
            await self._ask("POST", f"{path}/binding", body)
        elif (
            bound == self.name
            and pod["status"]["phase"] == "Pending"
            and {name, uid}.isdisjoint(self.hold | self._known)
        ):
            self._known.add(uid)
            await self._start(pod, path)

    async def _start(self, pod: Json, path: str) -> None:
        uid, worker = pod["metadata"]["uid"], pod["spec"]["containers"][0]
        home = self._folder / uid
        own = pod["spec"]["volumes"][0]  # as the provider makes it
        claim = own.get("persistentVolumeClaim")
        workspace = home / "workspace"
        if claim:
            kept = await self._ask("GET", f"{path.rpartition('/pods/')[0]}/persistentvolumeclaims/{claim['claimName']}")
            workspace = self._folder / f"volume-{kept['metadata']['uid']}"
        for folder in (home / "agent", workspace):
            folder.mkdir(parents=True, exist_ok=True)
        with (home / "log").open("wb") as log:
            env = {"PATH": os.environ["PATH"], "TMPDIR": str(home)}
            for one in pod["spec"].get("initContainers", ()):
                words = [re.sub("/agent|/opt/posthouse", f"{home}/agent", word) for word in one["command"]]
                assert words[0] == "python3"
                copying = await asyncio.create_subprocess_exec(sys.executable, *words[1:], stdout=log, stderr=log)
                assert await copying.wait() == 0, (home / "log").read_text()
            process = await asyncio.create_subprocess_exec(
                *[word.replace("$$", "$") for word in (*worker["command"], *worker["args"])],
                cwd=workspace,
                env=env
                | await self._environment(pod, worker, {"/workspace": workspace, "/opt/posthouse": home / "agent"}),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._running[uid] = process
        running = {"state": {"running": {"startedAt": now()}}, "ready": True}
        await self._say(pod, path, "Running", running)
        self._spawn(self._await(pod, path, process))

    async def _environment(self, pod: Json, worker: Json, mounted: dict[str, Path]) -> dict[str, str]:
        env: dict[str, str] = {}
        for one in worker.get("envFrom", ()):
            name = one["secretRef"]["name"]
            kept = await self._ask("GET", f"/api/v1/namespaces/{pod['metadata']['namespace']}/secrets/{name}")
            env |= {key: base64.b64decode(value).decode() for key, value in (kept.get("data") or {}).items()}
        for one in worker.get("env", ()):
            assert one["valueFrom"]["fieldRef"]["fieldPath"] in ("status.hostIP", "status.podIP")
            env[one["name"]] = "127.0.0.1"
        outside = env.get(f"VAST_TCP_PORT_{env.get('WORKER_PORT')}")
        if outside:
            env |= {"WORKER_PORT": outside, f"VAST_TCP_PORT_{outside}": outside}
        env |= {name: str(free_port()) for name in ("WORKER_HTTP_PORT", "MODEL_PORT") if name in env}
        for name in {"MODEL_LOG", "PYTHON"} & env.keys():
            for path, place in mounted.items():
                env[name] = re.sub(f"^{path}", str(place), env[name])
        return env

    async def _await(self, pod: Json, path: str, process: asyncio.subprocess.Process) -> None:
        """Says how a worker ended, unless it was ended."""
        code = await process.wait()
        uid = pod["metadata"]["uid"]
        kill(process, signal.SIGKILL)  # what it left behind
        del self._running[uid]
        if uid not in self._ending:
            text = (self._folder / uid / "log").read_bytes()[-LAST_BYTES:].decode(errors="replace") if code else ""
            code = 128 - code if code < 0 else code
            done = {"exitCode": code, "reason": "Error" if code else "Completed", "message": text, "finishedAt": now()}
            await self._say(pod, path, "Failed" if code else "Succeeded", {"state": {"terminated": done}})

    async def _say(self, pod: Json, path: str, phase: str, state: Json) -> None:
        one = {"name": "worker", "image": "", "imageID": "", "restartCount": 0, "ready": False, **state}
        status = {"phase": phase, "hostIP": "127.0.0.1", "podIP": "127.0.0.1", "containerStatuses": [one]}
        await self._ask("PATCH", f"{path}/status", {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status})

    async def _stop(self, uid: str, grace_s: float) -> None:
        process = self._running.get(uid)
        if process is not None:
            kill(process, signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await process.wait()
            kill(process, signal.SIGKILL)
        shutil.rmtree(self._folder / uid, ignore_errors=True)

    async def _logs(self, request: web.Request) -> web.Response:
        pod = await self._ask("GET", "/api/v1/namespaces/{namespace}/pods/{pod}".format(**request.match_info))
        file = self._folder / pod["metadata"]["uid"] / "log"
        if not file.exists():
            return web.Response(status=400, text='container "worker" is waiting to start: ContainerCreating')
        lines = file.read_bytes().splitlines(keepends=True)
        answer = web.Response(body=b"".join(lines[-int(request.query.get("tailLines", len(lines))) :]))
        answer.force_close()
        return answer


def kill(process: asyncio.subprocess.Process, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def node_status(port: int) -> Json:
    resources = {"cpu": "8", "memory": "16Gi", "pods": "110", "nvidia.com/gpu": "4"}
    return {
        "capacity": resources,
        "allocatable": resources,
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
    }


def certificate(folder: Path) -> ssl.SSLContext:
    """Of the log server; the API server takes any."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    began = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, began, began + datetime.timedelta(days=3))
    file = folder / "node.pem"
    file.write_bytes(
        builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
