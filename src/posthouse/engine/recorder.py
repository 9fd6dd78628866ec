"""Recorded traffic of endpoints: stored, and read again. Nothing here is on the path of a request."""

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog

from posthouse.domain.endpoint import EndpointId, WorkergroupId
from posthouse.domain.offer import Offer
from posthouse.domain.worker import Worker
from posthouse.engine.hub import Hub
from posthouse.engine.managed import ManagedEndpoint
from posthouse.errors import Unavailable
from posthouse.policy.capacity import kind_of
from posthouse.sim.bill import DAY_S, Bill, bill
from posthouse.wire.grant import AGENT

log = structlog.get_logger()

LOOK_S = 5.0
"""Between two looks at which traffic logs are due."""


@dataclass(slots=True)
class Recorder:
    """Cuts the traffic logs of all fleets and stores the segments, in their order."""

    hub: Hub
    keep_bytes: int
    """Most bytes of one endpoint; 0: nothing is kept."""
    counts: Counter[str] = field(default_factory=Counter)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "segments"))
    """Always the same: every thread that packs keeps the memory that this took, about 1 MB."""

    async def run(self) -> None:
        """Waits `LOOK_S`, then cuts and stores what is due: one round, to be repeated."""
        await asyncio.sleep(LOOK_S)
        await self.keep_all()

    async def keep_all(self, at_once: bool = False) -> None:
        """Cuts every traffic log that is due, or `at_once` each that has something, and stores what is cut.

        What cannot be stored is tried again the next time, and beyond `SEGMENTS_KEPT` the oldest is lost and counted.
        """
        usable = True
        for managed in [s for s in self.hub.endpoints.values() if not s.leaving]:
            await self._drain(managed, at_once)
            try:
                if usable:
                    await self._store(managed)
            except Unavailable:
                usable = False  # for no other either: each try may take seconds

    async def keep(self, managed: ManagedEndpoint) -> None:
        """Cuts and stores what an endpoint's traffic log has. Raises: Unavailable."""
        await self._drain(managed, at_once=True)
        await self._store(managed)

    async def _store(self, managed: ManagedEndpoint) -> None:
        while managed.unkept:
            segment = managed.unkept[0]
            await self.hub.store.add_segment(managed.fleet.endpoint.id, segment, self.keep_bytes)
            managed.unkept.popleft()

    async def _drain(self, managed: ManagedEndpoint, at_once: bool) -> None:
        now = self.hub.clock.now()
        if not managed.traffic_due(now, at_once):
            return
        piece = managed.drain_traffic(now)
        if not self.keep_bytes:
            return
        if len(managed.unkept) == managed.unkept.maxlen:
            self.counts["lost_segments"] += 1
        managed.unkept.append(await asyncio.get_running_loop().run_in_executor(self._thread, piece.pack))


async def traffic(hub: Hub, endpoint_id: EndpointId, last_s: float) -> dict[str, Any]:
    """All that a replay follows from, as data for JSON: segments, those not stored yet too; parameters; workers."""
    managed = hub.managed(endpoint_id)
    now = hub.clock.now()
    segments = [*await hub.store.segments(endpoint_id, now - last_s)]
    fleet = managed.fleet
    segments += [*managed.unkept, await asyncio.to_thread(managed.copy_traffic(now).pack)]
    estimates = fleet.snapshot(now, ()).estimates
    return {
        "endpoint": fleet.endpoint.name,
        "scaling": asdict(fleet.endpoint.scaling),
        "kinds": _kinds(hub, managed, estimates.perf),
        "start_s": estimates.start_s,
        "create_s": estimates.create_s,
        "segments": [asdict(segment) for segment in segments],
    }


async def bill_of(hub: Hub, endpoint_id: EndpointId, days: int, wait_s: float | None) -> Bill:
    """What the last days cost beside the least that they could have: today, and so many whole days before it.

    `wait_s`: how long a request may wait; None: as long as its `target_queue_time`.
    """
    managed, now = hub.managed(endpoint_id), hub.clock.now()
    scaling = asdict(managed.fleet.endpoint.scaling)
    since = (now // DAY_S - days) * DAY_S
    segments = [s for s in await hub.store.segments(endpoint_id, since) if s.since >= since]
    waiting, latest = [*managed.unkept], managed.copy_traffic(now)
    allowed_s = scaling["target_queue_time"] if wait_s is None else wait_s
    return await asyncio.to_thread(lambda: bill([*segments, *waiting, latest.pack()], allowed_s, scaling))


def _kinds(hub: Hub, managed: ManagedEndpoint, perf: dict[str, float]) -> list[dict[str, Any]]:
    """Every kind of machine that the endpoint has or could have, those it has most of first."""
    found: dict[str, dict[str, Any]] = {}
    machines: list[tuple[WorkergroupId, Worker | Offer]] = [(w.group_id, w) for w in managed.fleet.workers.values()]
    offers = hub.offers_for(managed.fleet.endpoint.id)
    for group_id, machine in machines + [(o.group_id, o.offer) for o in offers]:
        name = kind_of(group_id, machine)
        row: dict[str, Any] = {"kind": name, "gpu_name": machine.gpu_name, "num_gpus": machine.num_gpus}
        row |= {"perf": perf.get(name, 0.0), **asdict(machine.price)}
        found.setdefault(name, row | {"workers": 0, "available": 0, "agent": False})
    for worker in managed.fleet.workers.values():
        row = found[kind_of(worker.group_id, worker)]
        row["workers"] += 1
        row["agent"] |= worker.version.endswith(AGENT)
    for offer in offers:
        found[kind_of(offer.group_id, offer.offer)]["available"] += offer.offer.available
    return sorted(found.values(), key=lambda row: -row["workers"])
