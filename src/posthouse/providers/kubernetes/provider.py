"""The `Provider` port on a cluster."""

import asyncio
import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Self
from weakref import WeakValueDictionary

import msgspec

from posthouse import bootstrap
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation
from posthouse.domain.offer import Capabilities, Offer
from posthouse.errors import Busy, NotFound, PosthouseError, Refused
from posthouse.ports import InstanceSpec
from posthouse.providers.answers import NoAnswer
from posthouse.providers.kubernetes import listing, objects
from posthouse.providers.kubernetes.api import RETRY_S, Cluster, Expired
from posthouse.providers.kubernetes.listing import Found
from posthouse.providers.kubernetes.making import Maker
from posthouse.providers.kubernetes.objects import GENERATION, HALTED, POD, PRINTED
from posthouse.providers.kubernetes.pools import Pool
from posthouse.providers.kubernetes.room import Room
from posthouse.providers.kubernetes.settings import KubernetesSettings
from posthouse.providers.kubernetes.workers import MAX_LINES, Workers
from posthouse.providers.plugin import Context

Json = dict[str, Any]

EVENTS_AGAIN_S: Final = 5.0
UPDATE_S: Final = 60.0
"""How long an update waits for the new Pod. It goes on after it."""
LOOK_S: Final = 0.3
MAX_INSTALLATION: Final = 33
"""Longest name of an installation: labels of clusters have 63 characters."""


@dataclass(slots=True)
class Making:
    """A worker whose address has to be waited for."""

    task: asyncio.Task[None]
    error: str = ""


class KubernetesProvider:
    """The `Provider` port on a cluster."""

    @classmethod
    async def open(cls, settings: KubernetesSettings, context: Context) -> Self:
        """The provider with these settings. Raises: Refused for a kubeconfig or an installation that cannot be used."""
        provider = cls(settings, context)
        await provider._cluster.connect()
        provider._events = asyncio.create_task(provider._listen())
        return provider

    def __init__(self, settings: KubernetesSettings, context: Context) -> None:
        """Raises: Refused for an installation that no object could be named after."""
        own = context.installation
        self._label = bootstrap.labels(own)
        if not re.fullmatch("[a-z0-9]([a-z0-9-]*[a-z0-9])?", own) or len(own) > MAX_INSTALLATION:
            raise Refused(
                f"installation: {own!r} names objects of a cluster, which takes lower-case letters, digits and -, at "
                f"most {MAX_INSTALLATION}"
            )
        self.name = context.name
        self._keeps = settings.workspace == "claim"
        self.capabilities = Capabilities(stop=self._keeps)
        self._settings = settings
        self._installation = own
        self._cluster = Cluster(context.name, settings.kubeconfig, settings.context, settings.call_s)
        self._workers = Workers(self._cluster, settings.namespace, own, settings.address == "gateway")
        self._room = Room(settings, self._cluster, self._workers)
        self._maker = Maker(settings, own, self._workers)
        self._choosing = asyncio.Lock()
        """Held while a worker takes its place, so that no two take the same."""
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._making: dict[str, Making] = {}
        self._causes: dict[str, str] = {}
        """Why an image was not pulled, by worker: between two tries the cluster does not say it."""
        self._unreached = ""
        self._bell = context.bell
        self._events: asyncio.Task[None] | None = None

    # -- what there is -----------------------------------------------------------------------------------------------

    async def catalog(self) -> Sequence[Offer]:
        """An offer for each pool of nodes that are alike, with the room that they have."""
        await self._room.look()
        return self._room.offers(self.name, await self._found(), self.capabilities)

    async def instances(self) -> Sequence[Instance]:
        """Every instance of this installation in the namespace, whichever server started it."""
        return [self._seen(worker) for worker in (await self._found()).values()]

    async def logs(self, instance_id: str, tail: int) -> str:
        """The last lines that it printed, with what its model wrote to `MODEL_LOG`."""
        tail = min(tail, MAX_LINES)
        record = await self._workers.record(instance_id) if tail > 0 and self._label.fullmatch(instance_id) else None
        return "".join(await self._workers.logs(record, tail)) if record else ""

    def troubles(self) -> list[str]:
        return [self._unreached] if self._unreached else []

    async def close(self) -> None:
        """Lets go of the cluster."""
        tasks = [making.task for making in self._making.values()] + ([self._events] if self._events else [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._cluster.close()

    # -- what is done ------------------------------------------------------------------------------------------------

    async def create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        """The instance, asked for. One that has the label already is returned as it is.

        Raises: OfferTaken, Refused for what cannot be run or is not admitted, Busy for a quota that is full.
        """
        bootstrap.check(spec, self._label)
        spec = self._with_image(spec)
        async with self._lock(spec.label):
            async with self._choosing:
                workers = await self._found()
                worker = workers.get(spec.label)
                if worker and (worker.pod or worker.record.halted or spec.label in self._making):
                    return self._seen(worker)
                if worker is None:
                    pool = await self._room.place(offer_id, max_usd_h, workers)
                    meta = objects.metadata(self._installation, spec.label, objects.notes(pool.id))
                    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}
                    record = await self._workers.make("configmaps", body)
                else:  # a call before was cut short
                    pool = await self._room.pool(worker.record.offer_id)
                    record = await self._record(spec.label)
            await self._begin(spec, record, pool, workers)
            return await self._seen_now(spec.label)

    async def start(self, instance_id: str) -> None:
        """Makes its Pod again, on its volume. Raises: NotFound; Busy while there is no room, or its old Pod ends."""
        async with self._lock(instance_id):
            record = await self._record(instance_id)
            workers = await self._found()
            worker = workers.get(instance_id)
            pod = _pod_of(record)
            if worker is None or pod is None:
                raise NotFound(f"{instance_id}: it was not made to the end")
            keep = {}
            if worker.pod is not None:
                if _lives(worker.pod) and not listing.outdated(worker):
                    await self._workers.note(instance_id, {HALTED: "no"}, {})
                    return
                keep = {PRINTED: await self._workers.printed(record)}
            self._room.require(worker, workers)
            await self._workers.note(instance_id, {}, keep)
            await self._workers.end_pod(instance_id, self._settings.grace_s)
            await self._workers.note(instance_id, {HALTED: "no"}, {})
            try:
                await self._maker.lead_to(pod, record)
                await self._workers.make("pods", pod)
            except PosthouseError:
                await self._workers.note(instance_id, {HALTED: "yes"}, {})
                raise

    async def stop(self, instance_id: str) -> None:
        """Ends its Pod. Its volume, its Service and what it printed are kept."""
        if not self._label.fullmatch(instance_id):
            return
        async with self._lock(instance_id):
            record = await self._workers.record(instance_id)
            if record is None:
                return
            if _pod_of(record) is None:
                raise Busy(f"{instance_id}: it is still being made", RETRY_S)
            if not listing.record_of(record).halted:
                printed = await self._workers.printed(record)
                await self._workers.note(instance_id, {HALTED: "yes"}, {PRINTED: printed})
            await self._workers.end_pod(instance_id, self._settings.grace_s)

    async def update(self, instance_id: str, spec: InstanceSpec) -> Instance:
        """Replaces its Pod by one that runs what `spec` says, on its volume and at its ports.

        Raises: NotFound, Refused for what cannot be run or is not admitted; Busy while there is no room.
        """
        bootstrap.check(spec, self._label)
        spec = self._with_image(spec)
        async with self._lock(instance_id):
            record = await self._record(instance_id)
            workers = await self._found()
            worker, old = workers.get(instance_id), _pod_of(record)
            if worker is None or old is None:
                raise Busy(f"{instance_id}: it is still being made", RETRY_S)
            self._room.require(worker, workers)
            generation = worker.record.generation + 1
            way = await self._maker.way(spec, record, workers, objects.ports_of(old))
            new = self._maker.pod(spec, record, way, objects.affinity_of(old), generation)
            await self._workers.try_out(new)
            await self._maker.put_secrets(spec, record, way, generation)
            noted = {GENERATION: str(generation), HALTED: "no"}
            keep = {POD: json.dumps(new), PRINTED: await self._workers.printed(record)}
            await self._workers.note(instance_id, noted, keep)
            try:
                await self._workers.end_pod(instance_id, self._settings.grace_s)
                await self._maker.lead_to(new, record)
                await self._workers.make("pods", new)
            except PosthouseError:
                before = worker.record
                noted = objects.notes(before.offer_id, before.generation, before.halted)
                await self._workers.note(instance_id, noted, {POD: json.dumps(old)})
                if not before.halted:
                    await self._maker.lead_to(old, record)
                    await self._workers.make("pods", old)
                raise
            return await self._renewed(instance_id)

    async def destroy(self, instance_id: str) -> None:
        """Removes all that it is, its volume, too. What workers share stays. Raises: Busy while its Pod ends."""
        if not self._label.fullmatch(instance_id):
            return
        if making := self._making.pop(instance_id, None):
            making.task.cancel()
            await asyncio.wait([making.task])
        async with self._lock(instance_id):
            await self._workers.remove(instance_id, self._settings.grace_s)
        self._causes.pop(instance_id, None)

    # -- parts -------------------------------------------------------------------------------------------------------

    async def _begin(self, spec: InstanceSpec, record: Json, pool: Pool, workers: dict[str, Found]) -> None:
        """Makes a worker; where its address takes a while, behind the call's back."""
        if self._settings.address == "load_balancer":
            self._making[spec.label] = Making(asyncio.create_task(self._bring(spec, record, pool, workers)))
            return
        try:
            await self._maker.make(spec, record, pool.affinity, workers)
        except PosthouseError:
            await self._workers.remove(spec.label, self._settings.grace_s)
            raise

    async def _bring(self, spec: InstanceSpec, record: Json, pool: Pool, workers: dict[str, Found]) -> None:
        """Makes a worker. What goes wrong is listed with it."""
        try:
            await self._maker.make(spec, record, pool.affinity, workers)
            del self._making[spec.label]
        except Exception as error:  # noqa: BLE001 - the seam of a task: whatever it is, it is shown, and the worker replaced
            self._making[spec.label].error = str(error)[:400] or repr(error)
        finally:
            self._bell()

    async def _found(self) -> dict[str, Found]:
        try:
            found = await self._workers.listed()
        except (OSError, NoAnswer, Refused) as error:
            self._unreached = f"provider {self.name}: the cluster at {self._cluster.url}: {error}"[:400]
            raise
        self._unreached = ""
        workers = {label: one for label, one in found.items() if self._label.fullmatch(label)}
        pods = {label: one.pod for label, one in workers.items() if one.pod}
        heard = {label: listing.pull_error(pod) for label, pod in pods.items()}
        self._causes = {label: heard[label] or self._causes.get(label, "") for label in pods}
        return workers

    async def _record(self, label: str) -> Json:
        """Raises: NotFound."""
        record = await self._workers.record(label) if self._label.fullmatch(label) else None
        if record is None:
            raise NotFound(f"instance {label[:100]!r} is not in this cluster")
        return record

    def _seen(self, worker: Found) -> Instance:
        label = worker.record.label
        making = self._making.get(label)
        if making and making.error:
            return Instance(id=label, label=label, seen=Observation.EXITED, message=making.error)
        waits = "its load balancer has no address yet" if making else ""
        return listing.instance(worker, waits, self._keeps, self._causes.get(label, ""))

    async def _seen_now(self, label: str) -> Instance:
        worker = (await self._found()).get(label)
        if worker is None:
            raise Refused(f"{label} was removed while it was made")
        return self._seen(worker)

    async def _renewed(self, label: str) -> Instance:
        """The instance once its new Pod runs, or as it is after a while."""
        until = time.monotonic() + UPDATE_S
        while True:
            seen = await self._seen_now(label)
            on_its_way = seen.seen in (Observation.PROVISIONING, Observation.PULLING)
            if not on_its_way or time.monotonic() > until:
                return seen
            await asyncio.sleep(LOOK_S)

    def _lock(self, label: str) -> asyncio.Lock:
        return self._locks.setdefault(label, asyncio.Lock())

    def _with_image(self, spec: InstanceSpec) -> InstanceSpec:
        """The spec with the image that it runs. Raises: Refused if there is none."""
        if image := spec.image or self._settings.image:
            return replace(spec, image=image)
        raise Refused(f"image: its template names none, and neither does providers.{self.name}.image")

    async def _listen(self) -> None:
        """Rings the bell at what the cluster tells of our Pods. The list is the truth; this only hastens it."""
        mark = {"labelSelector": self._workers.mark}
        while True:
            with suppress(OSError, ValueError, NoAnswer, Expired, PosthouseError):
                async for _ in self._cluster.changes(self._workers.path("pods"), mark):
                    self._bell()
            await asyncio.sleep(EVENTS_AGAIN_S)


def _pod_of(record: Json) -> Json | None:
    """The Pod that a record describes; None if it was not made to the end."""
    try:
        return msgspec.json.decode((record.get("data") or {})[POD], type=Json)
    except (KeyError, msgspec.DecodeError):
        return None


def _lives(pod: Mapping[str, Any]) -> bool:
    return not listing.ended(pod) and not pod["metadata"].get("deletionTimestamp")
