"""The `Provider` port on SkyPilot."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Self
from weakref import WeakValueDictionary

from posthouse import bootstrap
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation
from posthouse.domain.offer import Capabilities, Offer
from posthouse.errors import Busy, NotFound, OfferTaken, PosthouseError
from posthouse.ports import InstanceSpec
from posthouse.providers.answers import NoAnswer
from posthouse.providers.plugin import BaseProvider, Context
from posthouse.providers.skypilot import launch, listing
from posthouse.providers.skypilot.client import Client, RequestFailed
from posthouse.providers.skypilot.listing import Cluster, Machine
from posthouse.providers.skypilot.settings import SkypilotSettings

LAUNCH: Final = "sky.launch"
MAX_ASKED: Final = 16
"""Most clusters that are asked at one time."""
UNDER_WAY: Final = ("PENDING", "RUNNING")
SETTLE_S: Final = 10.0
"""Longest wait for what became of a launch that the server no longer counts as under way."""
MAX_LINES: Final = 10_000
ALL_MINE: Final = {"refresh": "NONE", "all_users": True, "include_credentials": False, "include_handle": False}


class SkypilotProvider(BaseProvider):
    """The `Provider` port on SkyPilot's API server."""

    Settings = SkypilotSettings
    capabilities = Capabilities(stop=True, update=False, logs=True)

    @classmethod
    async def open(cls, settings: SkypilotSettings, context: Context) -> Self:
        """The provider with these settings. Raises: Refused for an installation that no label could carry."""
        return cls(settings, context)

    def __init__(self, settings: SkypilotSettings, context: Context) -> None:
        self.name = context.name
        self._settings = settings
        self._label = bootstrap.labels(context.installation)
        self._client = Client(context.name, settings, context.installation)
        self._machines: dict[str, tuple[Offer, Machine]] = {}
        """What the latest catalogue offered, by id."""
        self._on: dict[str, str] = {}
        """The offer that each cluster was launched on, as far as that is known."""
        self._ports: dict[str, tuple[int, ...]] = {}
        self._launches: dict[str, str] = {}
        """Requests of launches that are under way, by cluster."""
        self._failed: dict[str, str] = {}
        """Why a launch failed, by cluster: shown until it is destroyed."""
        self._places: dict[str, frozenset[str]] = {}
        """Where clusters that run are reached."""
        self._booted: set[str] = set()
        """Clusters whose worker was told to run since they were started."""
        self._rested: set[str] = set()
        """Clusters that were stopped since their worker was told to run: where it is over, it is told again."""
        self._starting: set[str] = set()
        """Clusters that are being started: what their jobs say is of before."""
        self._locks: WeakValueDictionary[tuple[str, ...], asyncio.Lock] = WeakValueDictionary()
        self._room = asyncio.Semaphore(MAX_ASKED)

    # -- what there is -----------------------------------------------------------------------------------------------

    async def catalog(self) -> Sequence[Offer]:
        """Every machine with GPUs of the clouds that the server may use, on demand and if wanted spot."""
        clouds = await self._clouds()
        if not clouds:
            self._machines = {}
            return []
        body = {"clouds": sorted(clouds), "gpus_only": True, "require_price": True, "all_regions": True}
        found = await self._client.call("/list_accelerators", body)
        if not isinstance(found, dict):
            raise NoAnswer(f"provider {self.name}: the server answers without accelerators")
        own = self._settings
        rows = listing.offers(found, clouds, self.name, own.room, own.disk_usd_gb_month, own.spot)
        self._machines = {offer.id: (offer, machine) for offer, machine in rows}
        used = Counter(self._on.values())
        return [_with_room(offer, used[offer.id]) for offer, _ in self._machines.values()]

    async def _clouds(self) -> frozenset[str]:
        found = await self._client.outcome(await self._client.send("/enabled_clouds"))
        enabled = {str(name).lower() for name in found} if isinstance(found, list) else set()
        wanted = {name.strip().lower() for name in self._settings.clouds.split(",")} - {""}
        return frozenset(enabled & wanted if wanted else enabled)

    async def instances(self) -> Sequence[Instance]:
        """Every cluster of this installation, and every one whose launch is under way or failed."""
        before = set(self._on)  # a launch that begins while this list is made is not judged by it
        under_way = set(await self._launching())
        clusters = {c.name: c for c in await self._clusters() if self._label.fullmatch(c.name)}
        self._rests(*(c.name for c in clusters.values() if c.seen is Observation.HALTED))
        under_way |= self._launches.keys() - before
        for name in self._launches.keys() - under_way:
            if not await self._settle(name, clusters):
                under_way.add(name)
        for name in before - clusters.keys() - under_way - self._failed.keys():
            self._forget(name)
        shown = [*clusters.values()]
        shown += [Cluster(n, Observation.PROVISIONING) for n in under_way if n not in clusters]
        shown += [Cluster(n, Observation.EXITED, why) for n, why in self._failed.items() if n not in clusters]
        return await asyncio.gather(*map(self._shown, shown))

    async def logs(self, instance_id: str, tail: int) -> str:
        """The last lines of its worker; empty while it was not told to run."""
        tail = min(tail, MAX_LINES)
        if tail < 1 or not self._label.fullmatch(instance_id):
            return ""
        try:
            job = _run_of(await self._jobs(instance_id))
        except (PosthouseError, NoAnswer):
            return ""
        if job is None:
            return ""
        body = {"cluster_name": instance_id, "job_id": job[0], "follow": False, "tail": tail}
        text = await self._client.text("/logs", body)
        return "".join(text.splitlines(keepends=True)[-tail:])

    def troubles(self) -> list[str]:
        return list(self._client.troubles.values())

    async def close(self) -> None:
        await self._client.close()

    # -- what is done ------------------------------------------------------------------------------------------------

    async def create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        """The cluster, being launched. One that is there, or on its way, is returned as it is.

        Raises: OfferTaken, Refused, Busy; NoAnswer where a launch may have been begun.
        """
        bootstrap.check(spec, self._label)
        async with self._lock(spec.label):
            if (found := await self._there(spec.label)) is not None:
                return found
            if offer_id not in self._machines:
                await self.catalog()
            offer, machine = self._machines.get(offer_id, (None, None))
            if offer is None or machine is None:
                raise OfferTaken(f"{offer_id[:200]}: SkyPilot has no such offer")
            if Counter(self._on.values())[offer_id] >= offer.available:
                raise OfferTaken(f"{offer_id}: it has as many workers as providers.{self.name}.room allows")
            usd_h = offer.price.ready_usd_h + offer.disk_usd_gb_h * spec.disk_gb
            if usd_h > max_usd_h * (1 + 1e-9):
                raise OfferTaken(f"{offer_id}: costs {usd_h:g} $/h, more than {max_usd_h:g}")
            return await self._launch(offer_id, machine, spec)

    async def _launch(self, offer_id: str, machine: Machine, spec: InstanceSpec) -> Instance:
        name = spec.label
        task = launch.keeping(spec, machine, self._settings.image)
        request_id = await self._client.send("/launch", {"task": task, "cluster_name": name})
        self._on[name], self._ports[name], self._launches[name] = offer_id, spec.ports, request_id
        self._failed.pop(name, None)
        try:
            await self._client.outcome(request_id, self._settings.launch_s)
        except (TimeoutError, NoAnswer):  # it goes on, and the list says what becomes of it
            return Instance(name, name, Observation.PROVISIONING)
        except PosthouseError:
            with suppress(PosthouseError, NoAnswer):  # what it left behind half made
                await self._client.call("/down", {"cluster_name": name})
            self._forget(name)
            raise
        self._launches.pop(name, None)
        with suppress(PosthouseError, NoAnswer):  # else the next list does it
            await self._boot(name)
        return Instance(name, name, Observation.PULLING, self._places.get(name, frozenset()))

    async def stop(self, instance_id: str) -> None:
        """Stops its machine and keeps its disk. Raises: Refused on a cloud that cannot do that."""
        if self._label.fullmatch(instance_id):
            self._rests(instance_id)  # also if nobody waits for the answer
            with suppress(NotFound):
                await self._client.call("/stop", {"cluster_name": instance_id})

    async def start(self, instance_id: str) -> None:
        """Starts its machine, and its worker there. Raises: NotFound."""
        cluster = await self._cluster(instance_id)
        if cluster.seen is Observation.HALTED:
            self._rests(instance_id)
            self._starting.add(instance_id)
            try:
                await self._client.call("/start", {"cluster_name": instance_id})
                await self._boot(instance_id)
            finally:
                self._starting.discard(instance_id)

    async def destroy(self, instance_id: str) -> None:
        """Ends its machine and its disk, and a launch that is under way."""
        if not self._label.fullmatch(instance_id):
            return
        under_way = (await self._launching()).get(instance_id, self._launches.get(instance_id))
        if under_way is not None:
            await self._client.call("/api/cancel", {"request_ids": [under_way]})
        with suppress(NotFound):
            await self._client.call("/down", {"cluster_name": instance_id})
        self._forget(instance_id)

    # -- parts -------------------------------------------------------------------------------------------------------

    def _lock(self, *key: str) -> asyncio.Lock:
        return self._locks.setdefault(key, asyncio.Lock())

    def _forget(self, name: str) -> None:
        for memory in (self._on, self._ports, self._launches, self._failed, self._places):
            memory.pop(name, None)
        for marks in (self._booted, self._rested):
            marks.discard(name)

    def _rests(self, *names: str) -> None:
        for name in names:
            self._places.pop(name, None)
            self._booted.discard(name)
            self._rested.add(name)

    async def _there(self, name: str) -> Instance | None:
        """The cluster of that name, or its launch that is under way."""
        found = next((c for c in await self._clusters([name]) if c.name == name), None)
        if found is None and name in await self._launching():
            found = Cluster(name, Observation.PROVISIONING)
        return None if found is None else Instance(name, name, found.seen, self._places.get(name, frozenset()))

    async def _clusters(self, names: list[str] | None = None) -> list[Cluster]:
        found = await self._client.call("/status", {**ALL_MINE, "cluster_names": names})
        try:
            return listing.clusters(found)
        except ValueError as error:
            raise NoAnswer(f"provider {self.name}: {error}") from None

    async def _cluster(self, name: str) -> Cluster:
        """One cluster of this installation. Raises: NotFound."""
        found = await self._clusters([name]) if self._label.fullmatch(name) else []
        if not found:
            raise NotFound(f"cluster {name[:100]!r} is not there, or of another installation")
        return found[0]

    async def _launching(self) -> dict[str, str]:
        """The requests of launches under way, by cluster: those of an earlier life of this server, too."""
        rows = await self._client.get("/api/status", {"all_status": "false"})
        if not isinstance(rows, list):
            raise NoAnswer(f"provider {self.name}: the server's list of requests cannot be read")
        return {
            str(row.get("cluster_name")): str(row.get("request_id"))
            for row in rows
            if isinstance(row, dict)
            and row.get("name") == LAUNCH
            and row.get("status") in UNDER_WAY
            and self._label.fullmatch(str(row.get("cluster_name")))
        }

    async def _settle(self, name: str, clusters: Mapping[str, Cluster]) -> bool:
        """Takes in what became of a launch that is over; False if the server does not say."""
        if (request_id := self._launches.get(name)) is None:  # destroyed in the meantime
            return True
        try:
            await self._client.outcome(request_id, SETTLE_S)
        except (PosthouseError, RequestFailed) as error:
            if isinstance(error, Busy):
                return False
            if not (isinstance(error, NotFound) and name in clusters):  # else only its request is forgotten
                self._failed[name] = str(error)[:400]
        except (NoAnswer, TimeoutError):
            return False
        self._launches.pop(name, None)
        return True

    async def _shown(self, cluster: Cluster) -> Instance:
        """A cluster as it is listed. One that runs is asked for its address and its worker."""
        name, message = cluster.name, cluster.message or self._failed.get(cluster.name, "")
        seen = Observation.EXITED if name in self._failed else cluster.seen
        if name in self._starting:
            seen = Observation.PULLING
        if seen is Observation.RUNNING:
            async with self._room:
                try:
                    seen, message = await self._worker(name)
                except (PosthouseError, NoAnswer) as error:
                    message = str(error)[:400]
        return Instance(name, name, seen, self._places.get(name, frozenset()), message=message)

    async def _worker(self, name: str) -> tuple[Observation, str]:
        """How the worker of a machine that runs stands; it is told to run if it was not yet."""
        jobs = await self._jobs(name)
        run = _run_of(jobs)
        if run is None or (run[2] in listing.OVER and name in self._rested):
            if run is None and jobs and jobs[0][2] in listing.OVER and jobs[0][2] != "SUCCEEDED":
                return Observation.EXITED, f"its script could not be put there: {jobs[0][2]}"
            await self._boot(name)
            return Observation.RUNNING, ""
        if name not in self._places:
            await self._find(name)
        if run[2] in listing.OVER:
            lines = (await self.logs(name, 6)).splitlines()
            told = " | ".join(line.strip() for line in lines if line.strip())
            return Observation.EXITED, f"{run[2].lower()}: {told}"[:400]
        return Observation.RUNNING, ""

    async def _boot(self, name: str) -> None:
        """Tells the worker of a cluster to run, once for each start."""
        async with self._lock(name, "boot"):  # not the one of `create`, which holds that while it gets here
            if name not in self._booted:
                places = await self._find(name)
                task = launch.running(int(name.rpartition("-")[2]), places)
                await self._client.call("/exec", {"task": task, "cluster_name": name})
                self._booted.add(name)
                self._rested.discard(name)

    async def _find(self, name: str) -> dict[int, str]:
        """Where its ports are reached, its own first. Raises: NoAnswer while that is not known."""
        found = await self._client.call("/endpoints", {"cluster": name})
        places = listing.places(found)
        if not places:
            raise NoAnswer(f"provider {self.name}: {name} has no address yet")
        wanted = self._ports.get(name, ())
        first = next((port for port in (*wanted, bootstrap.DEFAULT_PORT) if port in places), min(places))
        self._places[name] = frozenset(places.values())
        return {first: places[first], **places}

    async def _jobs(self, name: str) -> list[tuple[int, str, str]]:
        """Id, name and status of a cluster's jobs, the latest first."""
        rows = await self._client.call("/queue", {"cluster_name": name, "skip_finished": False, "all_users": True})
        if not isinstance(rows, list):
            raise NoAnswer(f"provider {self.name}: the jobs of {name} cannot be read")
        found = [_job(row) for row in rows if isinstance(row, dict)]
        return sorted((job for job in found if job[0] > 0), reverse=True)


def _job(row: dict[str, Any]) -> tuple[int, str, str]:
    number = row.get("job_id")
    return number if isinstance(number, int) else 0, str(row.get("job_name")), str(row.get("status"))


def _run_of(jobs: Sequence[tuple[int, str, str]]) -> tuple[int, str, str] | None:
    """The worker's job: the one that runs, or else the latest."""
    runs = [job for job in jobs if job[1] == launch.RUN]
    return next((job for job in runs if job[2] not in listing.OVER), runs[0] if runs else None)


def _with_room(offer: Offer, used: int) -> Offer:
    return replace(offer, available=max(0, offer.available - used))
