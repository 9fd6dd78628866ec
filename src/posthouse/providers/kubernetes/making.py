"""How a worker is made: its claim, its Service, its Secrets and its Pod, in that order."""

import asyncio
import json
import secrets
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from posthouse.errors import Refused
from posthouse.ports import InstanceSpec
from posthouse.providers.kubernetes import listing, objects
from posthouse.providers.kubernetes.listing import Found
from posthouse.providers.kubernetes.objects import POD, Way
from posthouse.providers.kubernetes.settings import MARK, KubernetesSettings
from posthouse.providers.kubernetes.workers import Workers

Json = dict[str, Any]

ADDRESS_LOOK_S: Final = 2.0
ADDRESS_S: Final = 900.0
"""How long a load balancer may take for an address, in seconds."""


class Maker:
    """Makes what a worker is, from what it is told to run. `spec.image` is always given."""

    def __init__(self, settings: KubernetesSettings, installation: str, workers: Workers) -> None:
        self._settings = settings
        self._installation = installation
        self._workers = workers

    async def make(self, spec: InstanceSpec, record: Json, affinity: list[Json], workers: Mapping[str, Found]) -> None:
        """Makes all but the record. What is there already stays."""
        if self._settings.workspace == "claim":
            meta = objects.metadata(self._installation, spec.label, {}, record)
            claim = objects.claim(meta, spec.disk_gb, self._settings.storage_class)
            await self._workers.make("persistentvolumeclaims", claim)
        way = await self.way(spec, record, workers, {})
        await self.put_secrets(spec, record, way, 0)
        pod = self.pod(spec, record, way, affinity, 0)
        await self._workers.note(spec.label, {}, {POD: json.dumps(pod)})
        await self.lead_to(pod, record)
        await self._workers.make("pods", pod)

    async def way(self, spec: InstanceSpec, record: Json, workers: Mapping[str, Found], had: Mapping[int, int]) -> Way:
        """How a worker is reached, once that is known. `had`: the ports that it has already, inside and outside."""
        own = self._settings
        if own.address == "pod":
            return Way("", tuple((port, port) for port in spec.ports))
        if own.address == "host_port":
            return Way(own.host or objects.NODE, self._host_ports(spec, workers, had))
        meta = objects.metadata(self._installation, spec.label, {}, record)
        service = await self._workers.make("services", objects.service(meta, spec.label, own.address, spec.ports))
        service = await self._workers.open_ports(service, spec.ports)
        if own.address == "node_port":
            outside = {one["port"]: one["nodePort"] for one in service["spec"]["ports"]}
            return Way(own.host or objects.NODE, tuple((port, outside[port]) for port in spec.ports))
        if own.address == "gateway":
            place, port = urlsplit(self._url(spec.label)), spec.ports[0]  # the worker's own alone
            return Way(place.geturl(), ((port, place.port or (443 if place.scheme == "https" else 80)),))
        host = service["spec"]["clusterIP"] if own.address == "cluster_ip" else await self._balanced(service)
        return Way(host, tuple((port, port) for port in spec.ports))

    def pod(self, spec: InstanceSpec, record: Json, way: Way, affinity: list[Json], generation: int) -> Json:
        ports = ",".join(f"{inside}:{outside}" for inside, outside in way.ports)
        told = objects.notes(listing.record_of(record).offer_id, generation)
        told |= {objects.HOST: way.host, objects.PORTS: ports}
        meta = objects.metadata(self._installation, spec.label, told, record)
        return objects.pod(self._settings, meta, spec, way, affinity)

    async def put_secrets(self, spec: InstanceSpec, record: Json, way: Way, generation: int) -> None:
        """Writes the environment, beside that of the generation before, and the registry's login."""
        names = objects.secret_names(spec.label)
        meta = objects.metadata(self._installation, spec.label, {}, record, names[generation % 2])
        values = objects.environment(spec, way, self._settings.agent == "init")
        await self._workers.put_secret(objects.secret(meta, values))
        if spec.registry:
            meta = objects.metadata(self._installation, spec.label, {}, record, names[2])
            await self._workers.put_secret(objects.login(meta, spec.registry))

    async def lead_to(self, pod: Json, record: Json) -> None:
        """Has a Gateway, where workers are behind one, pass on what comes for a worker to the port of this Pod."""
        if self._settings.address == "gateway":
            label, port = pod["metadata"]["name"], next(iter(objects.ports_of(pod)))
            meta = objects.metadata(self._installation, label, {}, record)
            await self._workers.put_route(objects.route(meta, self._settings, self._url(label), port))

    def _url(self, label: str) -> str:
        return self._settings.gateway_url.replace(MARK, label)

    async def _balanced(self, service: Json) -> str:
        """The address of a load balancer, once it has one."""
        async with asyncio.timeout(ADDRESS_S):
            while not (host := objects.balancer_of(service)):
                await asyncio.sleep(ADDRESS_LOOK_S)
                service = await self._workers.read("services", service["metadata"]["name"])
        return host

    def _host_ports(
        self, spec: InstanceSpec, workers: Mapping[str, Found], had: Mapping[int, int]
    ) -> tuple[tuple[int, int], ...]:
        """Ports of a node that no worker has. Taken at random: who still holds the address of a worker that is gone
        should not meet its successor."""
        taken = {port for worker in workers.values() if worker.pod for port in objects.ports_of(worker.pod).values()}
        first, last = map(int, self._settings.ports.split("-"))
        free = [port for port in range(first, last + 1) if port not in taken]
        missing = sum(port not in had for port in spec.ports)
        if len(free) < missing:
            raise Refused(f"ports: workers have all of {self._settings.ports}")
        chosen = iter(secrets.SystemRandom().sample(free, missing))
        return tuple((port, had[port] if port in had else next(chosen)) for port in spec.ports)
