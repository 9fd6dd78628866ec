"""The objects of workers in one namespace: made, read and removed, each step such that it may be done again."""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from posthouse.errors import Busy, NotFound, Refused
from posthouse.providers.answers import NoAnswer
from posthouse.providers.kubernetes import listing, objects
from posthouse.providers.kubernetes.api import METADATA, RETRY_S, AlreadyThere, Cluster
from posthouse.providers.kubernetes.listing import Found
from posthouse.providers.kubernetes.objects import INSTALLATION, PRINTED

Json = dict[str, Any]

ROUTES: Final = "httproutes"
GONE_S: Final = 30.0
"""How long the end of a Pod is waited for beyond its grace, in seconds."""
LOOKS_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Between two looks for it; the last one again and again."""
PRINTED_BYTES: Final = 2**18
"""Most that is kept of what a worker printed before a stop or an update."""
MAX_LINES: Final = 10_000


class Workers:
    """Workers of one installation in one namespace."""

    def __init__(self, cluster: Cluster, namespace: str, installation: str, routes: bool = False) -> None:
        """`routes`: they are reached by a Gateway."""
        self._routes = routes
        self._cluster = cluster
        self._namespace = namespace
        self._installation = installation
        self.mark = f"{INSTALLATION}={installation}"

    def path(self, kind: str, name: str = "") -> str:
        group = "/apis/gateway.networking.k8s.io/v1" if kind == ROUTES else "/api/v1"
        return f"{group}/namespaces/{self._namespace}/{kind}" + (f"/{name}" if name else "")

    def is_ours(self, item: Mapping[str, Any]) -> bool:
        labels = (item.get("metadata") or {}).get("labels") or {}
        return bool(labels.get(INSTALLATION) == self._installation)

    def has(self, pod: Mapping[str, Any]) -> bool:
        """Whether a Pod of the cluster is one of these workers."""
        return self.is_ours(pod) and (pod.get("metadata") or {}).get("namespace") == self._namespace

    # -- what there is -----------------------------------------------------------------------------------------------

    async def listed(self) -> dict[str, Found]:
        """Every worker of the installation by its label."""
        # The records first: a Pod whose record is missing then is one that was made in between.
        accept, mark = METADATA.format("List"), {"labelSelector": self.mark}
        records = await self._cluster.objects(self.path("configmaps"), mark, accept)
        pods = await self._cluster.objects(self.path("pods"), mark)
        return listing.found(records, pods)

    async def read(self, kind: str, name: str) -> Json:
        """An object. Raises: NotFound."""
        return await self._cluster.call("GET", self.path(kind, name))

    async def record(self, label: str) -> Json | None:
        """A worker's record with its data, if it is of this installation."""
        return await self._ours("configmaps", label)

    async def logs(self, record: Json, tail: int) -> list[str]:
        """The last lines that a worker printed, those of before its last stop or update first."""
        label = record["metadata"]["name"]
        before = str((record.get("data") or {}).get(PRINTED) or "")
        try:
            wanted = {"container": "worker", "tailLines": str(tail)}
            printed = await self._cluster.text(self.path("pods", f"{label}/log"), wanted)
        except NotFound:  # there is no Pod, or nothing of it has begun
            printed = ""
        return (before + printed).splitlines(keepends=True)[-tail:]

    async def _ours(self, kind: str, name: str) -> Json | None:
        try:
            found = await self.read(kind, name)
        except NotFound:
            return None
        return found if self.is_ours(found) else None

    # -- what is made ------------------------------------------------------------------------------------------------

    async def make(self, kind: str, body: Json) -> Json:
        """An object, as the cluster has it; one of the name that is of this installation is left as it is.

        Raises: Refused for one that is of somebody else.
        """
        name = body["metadata"]["name"]
        for _ in range(2):
            try:
                return await self._cluster.call("POST", self.path(kind), body)
            except AlreadyThere:
                try:
                    found = await self.read(kind, name)
                except NotFound:  # it went in between
                    continue
                if not self.is_ours(found):
                    raise Refused(f"{kind} {name} in namespace {self._namespace} is of somebody else") from None
                if found["metadata"].get("deletionTimestamp"):
                    raise Busy(f"{kind} {name} is still being removed", RETRY_S) from None
                return found
        raise Busy(f"{kind} {name} comes and goes", RETRY_S)

    async def try_out(self, pod: Json) -> None:
        """Has the cluster judge a Pod without making it. Raises: Refused for what it would not admit."""
        body = pod | {"metadata": pod["metadata"] | {"name": f"{pod['metadata']['name']}-try"}}
        try:
            await self._cluster.call("POST", self.path("pods"), body, query={"dryRun": "All"})
        except Busy:  # a quota that is full now will have room once the old Pod is gone
            return
        except Refused as error:
            if "dry run" not in str(error):  # not every webhook can judge without effect
                raise

    async def put_secret(self, body: Json) -> None:
        """Makes a Secret, or overwrites it. What it has is never read."""
        try:
            await self._cluster.call("POST", self.path("secrets"), body)
        except AlreadyThere:
            await self._cluster.call("PUT", self.path("secrets", body["metadata"]["name"]), body)

    async def put_route(self, body: Json) -> None:
        """Makes a worker's route, or has it lead to the port that its worker has now."""
        try:
            made = await self.make(ROUTES, body)
        except NotFound as error:
            raise Refused(f"{error}; has the cluster the Gateway API, with HTTPRoute in version v1?") from None
        if made["spec"]["rules"][0]["backendRefs"][0]["port"] != body["spec"]["rules"][0]["backendRefs"][0]["port"]:
            await self._cluster.call("PUT", self.path(ROUTES, made["metadata"]["name"]), made | {"spec": body["spec"]})

    async def open_ports(self, service: Json, ports: Iterable[int]) -> Json:
        """A worker's Service with these ports, too. Those that it has stay where they are."""
        spec = service["spec"]
        missing = [port for port in ports if port not in {one["port"] for one in spec["ports"]}]
        if not missing:
            return service
        spec["ports"] += [objects.service_port(port) for port in missing]
        return await self._cluster.call("PUT", self.path("services", service["metadata"]["name"]), service)

    async def note(self, label: str, notes: Mapping[str, str], data: Mapping[str, str]) -> None:
        """Writes into a worker's record. Raises: NotFound."""
        body = {"metadata": {"annotations": dict(notes)}, "data": dict(data)}
        accept = METADATA.format("")
        await self._cluster.call("PATCH", self.path("configmaps", label), body, accept)

    # -- what is ended -----------------------------------------------------------------------------------------------

    async def printed(self, record: Json) -> str:
        """All that is to be kept of a worker's output before its Pod goes."""
        with suppress(OSError, NoAnswer):  # its node may be lost, and that keeps nobody from going on
            return "".join(await self.logs(record, MAX_LINES)).encode()[-PRINTED_BYTES:].decode(errors="ignore")
        return str((record.get("data") or {}).get(PRINTED) or "")

    async def end_pod(self, label: str, grace_s: float) -> None:
        """Ends a worker's Pod and returns once it is gone. One that is gone is success. Raises: Busy."""
        path = self.path("pods", label)
        try:
            gone = await self._cluster.call("DELETE", path)
        except NotFound:
            return
        uid = _uid(gone) or str((gone.get("details") or {}).get("uid"))
        until = asyncio.get_running_loop().time() + grace_s + GONE_S
        looks = iter(LOOKS_S)
        pause_s = 0.0
        while asyncio.get_running_loop().time() < until:
            pause_s = next(looks, pause_s)
            await asyncio.sleep(pause_s)
            try:
                if _uid(await self._cluster.call("GET", path, None, METADATA.format(""))) != uid:
                    return
            except NotFound:
                return
        raise Busy(f"{label}: its node has not confirmed that its Pod ended", RETRY_S)

    async def remove(self, label: str, grace_s: float) -> None:
        """Removes all that a worker is, its record last. Raises: Busy while its Pod ends."""
        record, pod = await self._ours("configmaps", label), await self._ours("pods", label)
        if record is None and pod is None:
            return
        if pod is not None:
            await self.end_pod(label, grace_s)
        kinds = ("services", "persistentvolumeclaims", *((ROUTES,) if self._routes else ()))
        own = [(kind, label) for kind in kinds if await self._ours(kind, label)]
        own += [("secrets", name) for name in objects.secret_names(label)]
        await asyncio.gather(*(self._delete(kind, name) for kind, name in own))
        await self._delete("configmaps", label)

    async def _delete(self, kind: str, name: str) -> None:
        with suppress(NotFound):
            await self._cluster.call("DELETE", self.path(kind, name))


def _uid(item: Mapping[str, Any]) -> str:
    return str((item.get("metadata") or {}).get("uid") or "")
