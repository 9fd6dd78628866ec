"""Measures the control loop: `python -m benchmarks.tick [--quick]`.

What a round of decisions over many endpoints costs, and what a look at their provider's list does, in processor time:
the real `Loop`, `Observer` and store, in virtual time, a round each second. Each endpoint has 10 workers and is asked
all the time; between the rounds, which alone are measured, requests come and end and workers report. Prints a table and
writes `benchmarks/results/tick.json`.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any, cast

from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling, SloMode, WorkergroupId
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Goal, Observation, State
from posthouse.domain.offer import ALL_CAPABILITIES, Offer, Price
from posthouse.domain.reports import Ended, Report
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine.executor import Executor
from posthouse.engine.hub import Hub
from posthouse.engine.loop import Loop
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.observer import Observer
from posthouse.engine.orphans import Orphans
from posthouse.fleet.controller import Controller
from posthouse.fleet.events import Assignment, Reported, RequestsEnded
from posthouse.ports import Provider
from posthouse.store.sql import open_store
from posthouse.template import Template, TemplateId, Workergroup

SIZES = (100, 300, 1000)
"""How many endpoints the server has."""
WORKERS, READY = 10, 6
"""Of each endpoint: all, and those that are ready. The others are stopped."""
PERF = 100.0
OFFERS = 20
"""For each workergroup."""
REQUESTS, COST = 2, 240.0
"""How many each endpoint is asked every second, and the work of each."""
REPORT_S = 10
"""Seconds between two reports of a worker."""
WARM_S = 310
"""Seconds of traffic before it is measured: as far as an endpoint looks back."""
RESULTS = Path(__file__).parent / "results" / "tick.json"


class Clock:
    """Virtual time."""

    def __init__(self) -> None:
        self.at = 1_700_000_000.0

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.at


class Market:
    """A provider whose instances stay as they are. Only what is asked of it here is there."""

    name, capabilities = "sim", ALL_CAPABILITIES

    def __init__(self, found: Sequence[Instance]) -> None:
        self._found = found
        prices = [Price(0.4 + 0.01 * n, 0.4 + 0.01 * n, 0.02) for n in range(OFFERS)]
        self._offers = [Offer(f"o{n}", self.name, f"m{n}", price, "GPU", 1, 4) for n, price in enumerate(prices)]

    async def instances(self) -> Sequence[Instance]:
        return self._found

    async def catalog(self) -> Sequence[Offer]:
        return self._offers


@dataclass(frozen=True, slots=True)
class Row:
    """Processor seconds of one size, for all its endpoints."""

    endpoints: int
    slo_mode: str
    round_mean_s: float
    """Of one a second, with what of them is written down."""
    round_max_s: float
    look_s: float
    """At the provider's list."""
    round_us_per_endpoint: float
    look_us_per_endpoint: float


def _worker(endpoint: Endpoint, number: int, clock: Clock) -> Worker:
    worker_id = WorkerId((endpoint.id - 1) * WORKERS + number + 1)
    address, ready, now = (
        f"10.{worker_id >> 16}.{worker_id >> 8 & 255}.{worker_id & 255}:3000",
        number < READY,
        clock.at,
    )
    return Worker(
        id=worker_id,
        endpoint_id=endpoint.id,
        group_id=WorkergroupId(endpoint.id),
        label=f"posthouse-bench-{worker_id}",
        provider=Market.name,
        offer_id="o0",
        machine=f"m{number}",
        gpu_name="GPU",
        num_gpus=1,
        price=Price(0.4, 0.4, 0.02),
        created_at=now,
        state=State.IDLE if ready else State.STOPPED,
        goal=Goal.HOT if ready else Goal.COLD,
        since=now,
        progressed_at=now,
        instance_id=f"i{worker_id}",
        addresses=frozenset({address}),
        url=f"http://{address}",
        version="1.1.0",
        scheme="U",
        perf=PERF,
        loaded_at=now,
        load_s=60.0,
    )


class Site:
    """A server's control loop, and what happens around it."""

    def __init__(self, endpoints: int, slo_mode: SloMode, hub: Hub, clock: Clock) -> None:
        self.hub, self.clock, self.began_at = hub, clock, clock.at
        self.workers: dict[Controller, list[Worker]] = {}
        self.managed: dict[Controller, ManagedEndpoint] = {}
        # As many as there are: what they are asked needs READY of them, and the others stay cold.
        scaling = Scaling(
            min_load=520.0, target_queue_time=60.0, cold_workers=WORKERS, max_workers=WORKERS, slo_mode=slo_mode
        )
        hub.templates[TemplateId(1)] = Template(TemplateId(1), "bench", "hash", "image")
        for number in range(1, endpoints + 1):
            endpoint = Endpoint(EndpointId(number), f"bench-{number}", scaling)
            workers = [_worker(endpoint, n, clock) for n in range(WORKERS)]
            fleet = Controller(endpoint, clock.at, workers)
            hub.endpoints[endpoint.id] = ManagedEndpoint(fleet)
            self.managed[fleet] = hub.endpoints[endpoint.id]
            hub.put_group(Workergroup(WorkergroupId(number), endpoint.id, TemplateId(1)))
            self.workers[fleet] = workers
        self.observer = Observer(hub)
        executor = Executor(hub, lambda worker: "", str, lambda owner: {}, "", 1, 1.0, self.observer.poke)
        self.orphans = Orphans(hub, executor.destroy_orphan, hub.store.workers_labelled)
        self.loop = Loop(hub, executor)
        self.open: list[tuple[Controller, WorkerId, int]] = []

    def instances(self) -> list[Instance]:
        """What the provider has, as it never changes."""
        running, halted = Observation.RUNNING, Observation.HALTED
        return [
            Instance(w.instance_id, w.label, running if w.state is State.IDLE else halted, w.addresses)
            for workers in self.workers.values()
            for w in workers
        ]

    async def round(self) -> None:
        for endpoint_id in list(self.hub.endpoints):
            await self.loop.tick_safely(endpoint_id)

    async def look(self) -> None:
        for provider in self.hub.providers.values():
            await self.orphans.sweep(provider, await self.observer.observe(provider))
            await self.hub.offers.refresh(provider)

    def live(self) -> None:
        """A second passes: what was asked is done, the next is asked, and a part of the workers report."""
        self.clock.at += 1.0
        now, second = self.clock.at, int(self.clock.at - self.began_at)
        for fleet, worker_id, idx in self.open:
            self.managed[fleet].handle(RequestsEnded(worker_id, (Ended(idx, success=True),)), now)
        self.open.clear()
        for fleet, workers in self.workers.items():
            for worker in workers[:READY]:
                if (worker.id + second) % REPORT_S == 0:
                    report = Report(max_perf=PERF, url=worker.url, version="1.1.0", scheme="U", working=frozenset())
                    self.managed[fleet].handle(Reported(worker.id, report), now)
            for _ in range(REQUESTS):
                outcome = fleet.assign(0, COST, now)
                assert isinstance(outcome, Assignment)
                self.open.append((fleet, outcome.worker.id, outcome.request_idx))

    def check(self) -> None:
        """Every endpoint was decided for, and none has begun anything: else something else was measured."""
        assert not self.loop.counts["failed_ticks"], self.loop.counts
        for managed in self.hub.endpoints.values():
            assert managed.decision is not None
            assert managed.decision.at == self.clock.at
            states = [w.state for w in managed.fleet.workers.values()]
            assert (states.count(State.IDLE), states.count(State.STOPPED)) == (READY, WORKERS - READY), states


async def _taken(do: Callable[[], Awaitable[None]]) -> float:
    """Processor seconds, of every thread."""
    gc.collect()
    began = time.process_time()
    await do()
    return time.process_time() - began


async def measured(endpoints: int, slo_mode: SloMode, rounds: int) -> Row:
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        store = await open_store(f"sqlite+aiosqlite:///{directory}/posthouse.db")
        try:
            hub = Hub(store, clock, {}, Market.name, "bench", stabilization_s=0.0)
            site = Site(endpoints, slo_mode, hub, clock)
            for fleet in site.workers:
                await store.add_endpoint(fleet.endpoint)
            hub.providers = {Market.name: cast(Provider, Market(site.instances()))}
            await site.look()
            for _ in range(WARM_S):
                site.live()
            await site.round()  # writes every worker down
            rounds_s, looks_s = [], []
            for second in range(rounds):
                site.live()
                rounds_s.append(await _taken(site.round))
                site.check()
                if second % 10 == 0:
                    looks_s.append(await _taken(site.look))
        finally:
            await store.close()
    round_s, look_s = mean(rounds_s), min(looks_s)
    row = Row(
        endpoints,
        slo_mode,
        round(round_s, 4),
        round(max(rounds_s), 4),
        round(look_s, 4),
        round(round_s / endpoints * 1e6, 1),
        round(look_s / endpoints * 1e6, 1),
    )
    print("  ".join(f"{key} {value}" for key, value in asdict(row).items()), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a third of the rounds")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    rounds = 40 if options.quick else 120
    modes: tuple[SloMode, ...] = ("fixed", "auto")
    rows = [asyncio.run(measured(size, mode, rounds)) for mode in modes for size in SIZES]
    few, many = ([row for row in rows if row.endpoints == size] for size in (SIZES[0], SIZES[-1]))
    growth: dict[str, Any] = {
        name: round(max(getattr(b, name) / getattr(a, name) for a, b in zip(few, many, strict=True)), 2)
        for name in ("round_us_per_endpoint", "look_us_per_endpoint")
    }
    print(f"from {SIZES[0]} to {SIZES[-1]} endpoints, for each of them: {growth}")
    result = {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "workers_per_endpoint": WORKERS,
        "rounds": rounds,
        "rows": [asdict(row) for row in rows],
        "growth": growth,
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
