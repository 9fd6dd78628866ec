"""The real engine and the real providers `docker`, `ssh`, `kubernetes` and `skypilot`, in virtual time, on an engine,
boxes, a cluster and a server that are only remembered: ours is killed between any two steps of its tasks, and another
one takes over.

`python -m tests.campaign.boxes STRIDE [PROVIDER ...]` kills it at every STRIDEth step of each change, from the call of
the API until every command is answered and what its provider does for it is done.
"""

import asyncio
import logging
import sys
from collections.abc import Iterator, Mapping
from itertools import count, product
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import structlog

from posthouse.config import Money
from posthouse.domain.endpoint import EndpointId
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation
from posthouse.domain.offer import Offer, Price
from posthouse.domain.reports import Report
from posthouse.engine.management.inputs import EndpointChanges, NewEndpoint, NewTemplate, NewWorkergroup
from posthouse.errors import NotFound
from posthouse.fleet.controller import Controller
from posthouse.ports import InstanceSpec, Provider
from posthouse.providers.docker import layout
from posthouse.providers.docker.engine import NameTaken
from posthouse.providers.docker.provider import DockerProvider
from posthouse.providers.docker.settings import DockerSettings
from posthouse.providers.kubernetes.provider import KubernetesProvider
from posthouse.providers.kubernetes.settings import KubernetesSettings
from posthouse.providers.plugin import Context
from posthouse.providers.skypilot.provider import SkypilotProvider
from posthouse.providers.skypilot.settings import SkypilotSettings
from posthouse.providers.ssh import provider as ssh_provider
from posthouse.providers.ssh.frames import Listing
from posthouse.providers.ssh.settings import Host, SshSettings
from posthouse.providers.wrappers import Breaker, Throttled
from tests.campaign.clouds import ClusterClient, SimCluster, SimSky, SkyClient
from tests.campaign.disk import Disk
from tests.campaign.market import NoChecks
from tests.campaign.server import Server
from tests.campaign.virtual import VirtualLoop
from tests.campaign.wire import FOREIGN, PORTS, PULL_S, Wire
from tests.campaign.world import World

STARTED_AT = 1.7e9
REPORT_S = 5.0
LOAD_S = 20.0
SETTLES_S = 180.0
"""After a crash all is as it should be within this time."""
READY_S = 90.0
"""What is there before a change is so within this time."""
PERF = 100.0
PROVIDERS = ("docker", "ssh", "kubernetes", "skypilot")
CHANGES = ("rent", "rest", "wake", "leave")
RESTING = ("idle", "model_loading", "starting", "stopped")
"""States in which nothing but a command is begun and not confirmed."""


class SimEngine(Wire):
    """As much of a container engine as the provider asks of it."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__(loop)
        self.ids = count(1)
        self.volumes: dict[str, Mapping[str, str]] = {FOREIGN: {}}
        self.containers: dict[str, dict[str, Any]] = {}
        self.images: set[str] = set()
        self._put(FOREIGN, {}, "running")

    def _put(self, name: str, labels: Mapping[str, str], state: str) -> str:
        container = f"c{next(self.ids)}"
        self.containers[container] = {"Id": container, "Names": [f"/{name}"], "Labels": labels, "State": state}
        return container

    def _of(self, container: str) -> dict[str, Any]:
        if container not in self.containers:
            raise NotFound(f"no such container: {container}")
        return self.containers[container]

    def running(self) -> list[tuple[str, str, str]]:
        there = [c for c in self.containers.values() if c["State"] == "running" and layout.LABEL in c["Labels"]]
        places = [(c, layout.place_of(c["Labels"])) for c in there]
        return [(p.label, f"{c['Id']} {c['began']}", f"127.0.0.1:{p.ports[0][1]}") for c, p in places]

    def left(self) -> list[str]:
        ours = [c["Names"][0] for c in self.containers.values() if layout.LABEL in c["Labels"]]
        return sorted(ours + [name for name in self.volumes if name != FOREIGN])

    def misnamed(self) -> list[str]:
        running = [c["Names"][0] for c in self.containers.values() if c["State"] == "running"]
        return [name for name in running if name.endswith(layout.HALTED)]

    def foreign_is_there(self) -> bool:
        return FOREIGN in self.volumes and any(
            c["State"] == "running" and not c["Labels"] for c in self.containers.values()
        )


class EngineClient:
    """What `DockerProvider` has for an engine, of one life of the server."""

    def __init__(self, engine: SimEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        deed = getattr(self, f"do_{name}")

        async def call(*given: Any, **named: Any) -> Any:
            await self._engine.way()
            answer = deed(*given, **named)
            await self._engine.way()
            return answer

        return call

    async def close(self) -> None: ...

    async def events(self, label: str) -> Any:
        await asyncio.Event().wait()
        yield {}

    async def pull(self, image: str, login: object, layers: dict[str, tuple[int, int]]) -> None:
        await asyncio.sleep(PULL_S)
        self._engine.images.add(image)

    def do_info(self) -> Mapping[str, Any]:
        return {"NCPU": 4, "MemTotal": 1e9}

    def do_listed(self, label: str) -> tuple[list[Any], list[Any]]:
        name, _, value = label.partition("=")
        volumes = [{"Name": v, "Labels": has} for v, has in self._engine.volumes.items() if has.get(name) == value]
        return volumes, [dict(c) for c in self._engine.containers.values() if c["Labels"].get(name) == value]

    def do_has_image(self, image: str) -> bool:
        return image in self._engine.images

    def do_create(self, name: str, body: dict[str, Any]) -> str:
        if any(c["Names"] == [f"/{name}"] for c in self._engine.containers.values()):
            raise NameTaken(name)
        self._engine.made.append(body["Labels"][layout.LABEL])
        return self._engine._put(name, body["Labels"], "created")

    def do_start(self, container: str) -> None:
        self._engine._of(container).update(State="running", began=self._engine.loop.time())

    def do_stop(self, container: str, grace_s: int) -> None:
        self._engine._of(container)["State"] = "exited"

    def do_rename(self, container: str, name: str) -> None:
        self._engine._of(container)["Names"] = [f"/{name}"]

    def do_remove(self, container: str, *, anonymous: bool) -> None:
        self._engine.containers.pop(container, None)

    def do_inspect(self, container: str) -> dict[str, Any]:
        found = self._engine._of(container)
        own = {"Type": "volume", "Destination": layout.WORKSPACE, "Name": found["Labels"][layout.LABEL]}
        return {"Mounts": [own], "State": {"ExitCode": 0}}

    def do_logs(self, container: str, tail: int) -> bytes:
        return b""

    def do_write(self, container: str, path: str, archive: object) -> None:
        self._engine._of(container)

    def do_make_volume(self, name: str, labels: Mapping[str, str]) -> Mapping[str, str]:
        return self._engine.volumes.setdefault(name, labels)

    def do_remove_volume(self, name: str) -> None:
        self._engine.volumes.pop(name, None)


class SimBox(Wire):
    """A box with the program that answers the calls of `ssh`: it outlives the servers that ask it."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__(loop)
        self.workers: dict[str, dict[str, Any]] = {}
        self.slots, self.pace_s = 8, 0.0
        self._turn = asyncio.Lock()

    def running(self) -> list[tuple[str, str, str]]:
        return [
            (label, str(w["began"]), f"10.0.0.1:{w['port']}")
            for label, w in self.workers.items()
            if w["seen"] is Observation.RUNNING
        ]

    def left(self) -> list[str]:
        return sorted(self.workers)

    def _instance(self, label: str) -> Instance:
        worker = self.workers[label]
        return Instance(label, label, worker["seen"], frozenset({f"10.0.0.1:{worker['port']}"}), price=Price())

    def do_catalog(self) -> list[Offer]:
        active = sum(w["seen"] is Observation.RUNNING for w in self.workers.values())
        return [Offer("cpu", "", "", Price(), "CPU", 0, available=max(0, self.slots - active))]

    def do_instances(self) -> Listing:
        return Listing([self._instance(label) for label in self.workers], "")

    def do_create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        if spec.label not in self.workers:
            self.made.append(spec.label)
            self.workers[spec.label] = {"port": next(PORTS)}
            self.do_start(spec.label)
        return self._instance(spec.label)

    def do_start(self, label: str) -> None:
        if label not in self.workers:
            raise NotFound(label)
        self.workers[label].update(seen=Observation.RUNNING, began=self.loop.time())

    def do_update(self, label: str, spec: InstanceSpec) -> Instance:
        self.do_start(label)
        return self._instance(label)

    def do_stop(self, label: str) -> None:
        if label in self.workers:
            self.workers[label]["seen"] = Observation.HALTED

    def do_destroy(self, label: str) -> None:
        self.workers.pop(label, None)


class BoxLink:
    """A connection to it, of one life of the server."""

    alive = True

    def __init__(self, box: SimBox) -> None:
        self._box = box

    async def call(self, name: str, *given: Any, limit_s: float) -> Any:
        await self._box.way()
        if name == "create" and self._box.pace_s:
            async with self._box._turn:
                await asyncio.sleep(self._box.pace_s)
        answer = getattr(self._box, f"do_{name}")(*given)
        await self._box.way()
        return answer

    async def close(self) -> None: ...


class Shop:
    """What the server of the campaign takes for its world: a provider, and workers that report."""

    thorough = False
    poll_s = catalog_s = 5.0

    def __init__(self, name: str, loop: VirtualLoop, folder: Path) -> None:
        self.name, self.loop, self.random, self._folder = name, loop, Random(2), folder
        kinds = {"docker": SimEngine, "ssh": SimBox, "kubernetes": SimCluster, "skypilot": SimSky}
        self.place: Wire = kinds[name](loop)
        self.tell: Any = lambda instance, message: None
        self._ran: dict[str, tuple[str, float]] = {}

    def renew(self) -> None:
        """A server that begins knows nothing of what another one asked, but for its files."""
        context = Context(self.name, "disk", self._folder)
        provider: Provider
        if isinstance(self.place, SimEngine):
            docker = DockerProvider(DockerSettings(type="docker", image="demo", agent="image", slots=8), context)
            docker._engine = docker._stock._engine = cast(Any, EngineClient(self.place))
            provider = docker
        elif isinstance(self.place, SimCluster):
            kubernetes = KubernetesProvider(
                KubernetesSettings(type="kubernetes", image="demo", address="pod", gpus_per_worker=0), context
            )
            client = cast(Any, ClusterClient(self.place))
            kubernetes._cluster = kubernetes._workers._cluster = kubernetes._room._cluster = client
            provider = kubernetes
        elif isinstance(self.place, SimSky):
            skypilot = SkypilotProvider(SkypilotSettings(type="skypilot"), context)
            skypilot._client = cast(Any, SkyClient(self.place))
            provider = skypilot
        else:
            assert isinstance(self.place, SimBox)
            link, key = BoxLink(self.place), Path("key")
            host = Host(name="a", address="10.0.0.1", user="posthouse", key_file=key, slots=8)
            with patch.object(ssh_provider, "_key", lambda path, where: None):
                ssh = ssh_provider.SshProvider(SshSettings(type="ssh", hosts=[host]), context)
            ssh._boxes["a"]._link = cast(Any, link)
            provider = ssh
        self._provider = Breaker(Throttled(provider, 0.0))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    def hit(self, kind: str) -> bool:
        return False

    async def report(self) -> None:
        """Has every worker report, forever."""
        while True:
            await asyncio.sleep(REPORT_S)
            now = self.loop.time()
            for label, life, address in self.place.running():
                if self._ran.get(label, ("", 0.0))[0] != life:
                    self._ran[label] = life, now
                loaded = now - self._ran[label][1] >= LOAD_S
                worker = SimpleNamespace(worker_id=int(label.rpartition("-")[2]))
                perf = PERF if loaded else 0.0
                self.tell(worker, Report(max_perf=perf, url=f"http://{address}", version="campaign", scheme="U"))


class Life:
    """What happens in virtual time to a server and its workers."""

    def __init__(self, provider: str) -> None:
        self.loop = loop = VirtualLoop()
        logs = structlog.get_config()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        time = SimpleNamespace(
            perf_counter=loop.time, clock_gettime=lambda which: loop.time(), time=lambda: STARTED_AT + loop.time()
        )
        try:
            with (
                TemporaryDirectory() as folder,
                patch("posthouse.engine.clock.time", time),
                patch("posthouse.engine.loop.time", time),
            ):
                self.shop, self.disk = Shop(provider, loop, Path(folder)), Disk()
                loop.run_until_complete(self._live())
        finally:
            structlog.configure(**logs)
            for task in (tasks := asyncio.all_tasks(loop)):
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks))
            loop.close()

    async def _live(self) -> None:
        raise NotImplementedError

    async def _server(self, tick_s: float = 1.0) -> Server:
        server = Server(cast(World, self.shop), self.disk, NoChecks(), tick_s)
        server.begin(self.shop.renew)
        await server.start()
        server.hub.treasury.caps = Money()
        return server

    async def _begin(self, cold_workers: int, max_workers: int) -> tuple[Server, EndpointId]:
        """A server with an endpoint that wants no worker yet."""
        server = await self._server()
        management = server.management
        await server.call(management.templates.create(NewTemplate(name="t", image="v1", env="-p 3000:3000")))
        wanted = {"min_load": 0, "cold_mult": 1, "cold_workers": cold_workers, "max_workers": max_workers}
        new = NewEndpoint.model_validate({"endpoint_name": "llm", **wanted, "inactivity_timeout": 0})
        await server.call(management.endpoints.create(new))
        await server.call(management.workergroups.create(NewWorkergroup(endpoint_name="llm", template_id=1)))
        [endpoint_id] = server.hub.endpoints
        return server, endpoint_id

    async def _want(self, server: Server, endpoint_id: EndpointId, workers: int) -> None:
        changes = EndpointChanges.model_validate({"min_load": 0.9 * PERF * workers})
        await server.call(server.management.endpoints.update(endpoint_id, changes))


class Burst(Life):
    """Many workers are wanted at once, of a provider that makes one every few seconds."""

    def __init__(self, workers: int, pace_s: float) -> None:
        self._workers, self._pace_s = workers, pace_s
        super().__init__("ssh")

    async def _live(self) -> None:
        assert isinstance(self.shop.place, SimBox)
        self.shop.place.slots, self.shop.place.pace_s = self._workers, self._pace_s
        server, endpoint_id = await self._begin(0, self._workers)
        reporting = asyncio.create_task(self.shop.report())
        await self._want(server, endpoint_id, 2 * self._workers)
        await asyncio.sleep(self._workers * self._pace_s + SETTLES_S)
        fleet = server.hub.endpoints[endpoint_id].fleet
        self.ready = sum(w.state == "idle" for w in fleet.workers.values())
        reporting.cancel()
        server.kill()


class Crash(Life):
    """A server that is killed so many steps of its tasks after a change, and another one in its place."""

    def __init__(self, provider: str, change: str, steps: int) -> None:
        """`change`: `rent`, `rest` (workers become cold), `wake`, or `leave` (the endpoint is deleted)."""
        self.change, self._steps = change, steps
        super().__init__(provider)

    async def _prepare(self) -> tuple[Server, EndpointId, "asyncio.Task[None]"]:
        """What is there before the change, and who reports."""
        server, endpoint_id = await self._begin(0 if self.change == "rent" else 2, 4)
        reporting = asyncio.create_task(self.shop.report())
        if self.change in ("rest", "leave"):
            await self._want(server, endpoint_id, 2)
        if self.change != "rent":
            await asyncio.sleep(READY_S)
        return server, endpoint_id, reporting

    async def _live(self) -> None:
        server, endpoint_id, reporting = await self._prepare()
        self.made_before = len(self.shop.place.made)
        killed = asyncio.Event()

        def kill() -> None:
            server.kill()
            killed.set()

        self.loop.after_steps = self.loop.steps + self._steps, kill
        changing = asyncio.create_task(self._change_it(server, endpoint_id))
        await killed.wait()
        await asyncio.wait([changing])
        if not changing.cancelled():
            changing.exception()  # its server died
        server = await self._server(tick_s=5.0)
        if endpoint_id in server.hub.endpoints:
            await self._change_it(server, endpoint_id)  # as who got no answer does
        await asyncio.sleep(SETTLES_S)
        there = server.hub.endpoints.get(endpoint_id)
        workers = [] if there is None else list(there.fleet.workers.values())
        self.states = sorted(str(w.state) for w in workers)
        self.labels = sorted(w.label for w in workers)
        self.running = sorted(label for label, _, _ in self.shop.place.running())
        self.left = self.shop.place.left()
        self.misnamed = self.shop.place.misnamed()
        self.foreign = self.shop.place.foreign_is_there()
        self.made = self.shop.place.made
        reporting.cancel()
        server.kill()

    async def _change_it(self, server: Server, endpoint_id: EndpointId) -> None:
        endpoints = server.management.endpoints
        if self.change == "rest":
            changes = EndpointChanges.model_validate({"endpoint_state": "stopped"})
            await server.call(endpoints.update(endpoint_id, changes))
        elif self.change != "leave":
            await self._want(server, endpoint_id, 2)
        elif not server.hub.endpoints[endpoint_id].leaving:
            await server.call(endpoints.delete(endpoint_id))


class Scout(Crash):
    """The same without a crash: at which steps there is something to lose."""

    def __init__(self, provider: str, change: str) -> None:
        self.steps: list[int] = []
        super().__init__(provider, change, 0)

    async def _live(self) -> None:
        server, endpoint_id, reporting = await self._prepare()
        began = self.loop.steps
        moved = False

        def look() -> bool:
            nonlocal moved
            there = server.hub.endpoints.get(endpoint_id)
            moving = there is not None and _moves(there.fleet)
            moved |= moving
            if moving or not moved:
                self.steps.append(self.loop.steps - began)
            return False

        self.loop.at_each_step = look
        await self._change_it(server, endpoint_id)
        await asyncio.sleep(SETTLES_S)
        self.loop.at_each_step = None
        reporting.cancel()
        server.kill()


def _moves(fleet: Controller) -> bool:
    """Whether a command has no answer yet, or a provider is at work, or there is no worker: yet, or any more."""
    workers = fleet.workers.values()
    return not workers or any(w.state not in RESTING or fleet.roster._watched[w.id].in_flight for w in workers)


def broken(crash: Crash) -> list[str]:
    """What is not as it should be three minutes after a crash."""
    state = {"rent": "idle", "wake": "idle", "rest": "stopped"}.get(crash.change)
    workers = 0 if state is None else 2
    rules = {
        "the workers that are wanted are there": crash.states == [state] * workers,
        "what runs is what is wanted": crash.running == (crash.labels if state == "idle" else []),
        "nothing is left": len({name.partition(".")[0].lstrip("/") for name in crash.left}) == workers,
        "nothing is made twice": len(set(crash.made)) == len(crash.made),
        "nothing is made again": crash.change == "rent" or len(crash.made) == crash.made_before,
        "nothing foreign is touched": crash.foreign,
        "what runs is named so": not crash.misnamed,
    }
    return [rule for rule, holds in rules.items() if not holds]


def crashes(stride: int, provider: str, change: str) -> Iterator[tuple[int, list[str]]]:
    """What a change is killed at, every `stride`th step, and which rules that broke."""
    return ((steps, broken(Crash(provider, change, steps))) for steps in Scout(provider, change).steps[::stride])


if __name__ == "__main__":
    total, wrong = 0, 0
    for at in product(sys.argv[2:] or PROVIDERS, CHANGES):
        found = list(crashes(int(sys.argv[1]), *at))
        bad = [(steps, "; ".join(rules)) for steps, rules in found if rules]
        total, wrong = total + len(found), wrong + len(bad)
        print(*at, f"{len(found)} crashes, {len(bad)} of them broke a rule", *bad, flush=True)
    print(f"{total} crashes, {wrong} of them broke a rule")
    raise SystemExit(bool(wrong))
