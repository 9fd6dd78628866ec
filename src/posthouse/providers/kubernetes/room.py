"""What a cluster's nodes have room for, and who has it."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from posthouse.domain.offer import Capabilities, Offer
from posthouse.errors import Busy, OfferTaken, Refused
from posthouse.providers.kubernetes.api import RETRY_S, Cluster
from posthouse.providers.kubernetes.listing import Found
from posthouse.providers.kubernetes.pools import Market, Pool
from posthouse.providers.kubernetes.settings import KubernetesSettings
from posthouse.providers.kubernetes.workers import Workers


class Room:
    """The pools of one cluster, and who is in them."""

    def __init__(self, settings: KubernetesSettings, cluster: Cluster, workers: Workers) -> None:
        self._settings = settings
        self._cluster = cluster
        self._workers = workers
        self._market = Market(settings)
        self._pools: dict[str, Pool] = {}
        """By their ids, as of the latest look at the nodes."""
        self._looked_at = -1e9

    async def look(self) -> None:
        """Looks at the nodes, and at what others run there, which not every user may see."""
        nodes = await self._cluster.objects("/api/v1/nodes")
        others: list[dict[str, Any]] = []
        with suppress(Refused):
            phases = "status.phase!=Succeeded,status.phase!=Failed"
            pods = await self._cluster.objects("/api/v1/pods", {"fieldSelector": phases})
            others = [pod for pod in pods if not self._workers.has(pod)]
        self._pools = self._market.pools(nodes, others)
        self._looked_at = time.monotonic()

    def offers(self, provider: str, workers: Mapping[str, Found], capabilities: Capabilities) -> list[Offer]:
        """An offer for each pool of the latest look."""
        left, found = self._left(workers), []
        for pool in self._pools.values():
            can = replace(capabilities, interruptible=bool(pool.spot))
            offer = self._market.offer(pool, provider, _active(workers, pool.id), can)
            found.append(replace(offer, available=min(offer.available, left)))
        return found

    async def pool(self, offer_id: str) -> Pool:
        """Raises: OfferTaken if no node is of it."""
        if time.monotonic() - self._looked_at > self._settings.catalog_s:
            await self.look()
        if offer_id not in self._pools:
            raise OfferTaken(f"{offer_id}: no node is of that kind now")
        return self._pools[offer_id]

    async def place(self, offer_id: str, max_usd_h: float, workers: Mapping[str, Found]) -> Pool:
        """Where a new worker goes. Raises: OfferTaken."""
        pool = await self.pool(offer_id)
        if (usd_h := self._market.price(pool).ready_usd_h) > max_usd_h * (1 + 1e-9):
            raise OfferTaken(f"{offer_id}: costs {usd_h:g} $/h, more than {max_usd_h:g}")
        if min(pool.slots - _active(workers, offer_id), self._left(workers)) < 1:
            raise OfferTaken(f"{offer_id}: no node has room")
        return pool

    def require(self, worker: Found, workers: Mapping[str, Found]) -> None:
        """Raises: Busy if a stopped worker may not run beside those that do. Whether a node has room for it, the
        cluster knows better: it waits for one."""
        if not worker.active and not self._left(workers):
            raise Busy(f"{worker.record.label}: {self._settings.max_workers} workers run already", RETRY_S)

    def _left(self, workers: Mapping[str, Found]) -> int:
        """How many more workers the settings allow."""
        most = self._settings.max_workers
        return max(0, most - _active(workers)) if most else 10**6


def _active(workers: Mapping[str, Found], offer_id: str = "") -> int:
    """How many workers hold their place: of an offer, or all."""
    return sum(worker.active and offer_id in ("", worker.record.offer_id) for worker in workers.values())
