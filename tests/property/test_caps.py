"""However long drains last, and whatever machines cost: what is spent in a day or a month is below its cap."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from random import Random

import pytest
from msgspec import structs

from posthouse.budget import END_S, KINDS, SHORT_S, began
from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Command, Observation
from posthouse.domain.offer import GroupOffer, Offer, Price
from posthouse.domain.reports import Ended
from posthouse.domain.worker import WorkerId
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.treasury import Treasury
from posthouse.fleet.events import (
    Answered,
    Assignment,
    Commit,
    Listed,
    Offered,
    Reported,
    RequestsEnded,
    Run,
    Ticked,
    Written,
)
from tests.kit.fleets import GROUP, ready_report
from tests.kit.marks import long

STEP_S = 10.0
SCALING = Scaling(min_load=150, cold_mult=1, cold_workers=0, max_workers=3)
EVENING = 1_769_900_400.0
"""An hour before a month ends."""


@dataclass(frozen=True)
class Limits:
    max_usd_h: float | None
    max_usd_day: float | None
    max_usd_month: float | None


@dataclass
class Machine:
    endpoint_id: EndpointId
    instance: Instance
    usd_h: float
    ends_at: float = float("inf")
    """When it costs nothing more, for it was ordered to go."""


class Market:
    """Machines, their bills, and long requests on them, in virtual time."""

    def __init__(self, caps: Limits, endpoints: int, random: Random, longest_s: float) -> None:
        self.caps, self.random, self.longest_s, self.now = caps, random, longest_s, EVENING
        self.treasury, self.ids, self.usd_h = Treasury(caps), count(1), 1.0
        self.machines: dict[str, Machine] = {}
        self.requests: dict[int, dict[int, float]] = {}
        """By worker: when each ends."""
        self.paid: dict[tuple[str, float], float] = {}
        self.killed = 0
        self.open = [
            ManagedEndpoint.open(Endpoint(EndpointId(i), f"e{i}", SCALING), self.now, deeds=self, label=f"x{i}-")
            for i in range(1, endpoints + 1)
        ]

    def run(self, seconds: float) -> None:
        until, dearer_at = self.now + seconds, self.now + END_S
        while self.now < until:
            for machine in self.machines.values():
                for kind in KINDS:
                    key = kind, began(kind, self.now)[0]
                    self.paid[key] = self.paid.get(key, 0.0) + machine.usd_h * STEP_S / 3600
            self.now += STEP_S
            self.machines = {label: m for label, m in self.machines.items() if m.ends_at > self.now}
            if self.now >= dearer_at and self.random.random() < 0.02:  # never twice while something ends
                dearer_at = self.now + END_S
                self.set_price(self.usd_h * self.random.choice((0.5, 1.5, 2.0)))
            for managed in self.open:
                self.tick(managed)
            self.check()

    def set_price(self, usd_h: float) -> None:
        self.usd_h = usd_h
        for machine in self.machines.values():
            machine.usd_h = usd_h
            machine.instance = replace(machine.instance, price=Price(usd_h, usd_h, usd_h))

    def tick(self, managed: ManagedEndpoint) -> None:
        listed = [m.instance for m in self.machines.values() if m.endpoint_id == managed.fleet.endpoint.id]
        managed.handle(Listed("sim", tuple(listed), self.now), self.now)
        for worker in list(managed.fleet.workers.values()):
            if worker.label in self.machines and self.machines[worker.label].ends_at == float("inf"):
                there = self.requests.setdefault(worker.id, {})
                over = [idx for idx, at in there.items() if at <= self.now]
                managed.handle(RequestsEnded(worker.id, tuple(Ended(i, True, "Success") for i in over)), self.now)
                for idx in over:
                    del there[idx]
                report = structs.replace(ready_report(perf=100.0, working=there), url=f"http://10.0.0.1:{worker.id}")
                managed.handle(Reported(worker.id, report), self.now)
        if self.random.random() < 0.2:
            found = managed.assign(0, 500, self.now)
            if isinstance(found, Assignment):
                took_s = self.random.uniform(1, self.longest_s)
                self.requests.setdefault(found.worker.id, {})[found.request_idx] = self.now + took_s
        offer = Offer(f"o{self.usd_h}", "sim", "m", Price(self.usd_h, self.usd_h, self.usd_h), "GPU", 1, available=9)
        managed.handle(Offered((GroupOffer(GROUP, offer),)), self.now)
        managed.handle(Ticked(self.new_ids(), self.treasury.cap(managed, self.now)), self.now)
        self.treasury.settle(managed, self.now)

    def new_ids(self) -> Iterator[WorkerId]:
        return (WorkerId(i) for i in self.ids)

    def check(self) -> None:
        for kind, limit in (("day", self.caps.max_usd_day), ("month", self.caps.max_usd_month)):
            paid = self.paid.get((kind, began(kind, self.now)[0]), 0.0)
            assert limit is None or paid <= limit, f"{kind}: ${paid:.3f} of {limit} are spent"

    # -- deeds ---------------------------------------------------------------------------------------------------------

    def wake(self, managed: ManagedEndpoint) -> None: ...

    def commit(self, managed: ManagedEndpoint, commit: Commit, now: float) -> None:
        managed.handle(Written(True), now)

    def run_command(self, managed: ManagedEndpoint, command: Run, now: float) -> None:
        worker, instance = command.worker, None
        if command.command is Command.RENT:
            address = frozenset({f"10.0.0.1:{worker.id}"})
            price = Price(self.usd_h, self.usd_h, self.usd_h)
            instance = Instance(f"i{worker.id}", worker.label, Observation.RUNNING, address, price=price)
            self.machines[worker.label] = Machine(managed.fleet.endpoint.id, instance, self.usd_h)
        else:
            assert command.command in (Command.DESTROY, Command.STOP)
            self.killed += len(self.requests.pop(worker.id, ()))
            if worker.label in self.machines:
                took_s = self.random.uniform(0, SHORT_S)
                self.machines[worker.label].ends_at = min(self.machines[worker.label].ends_at, now + took_s)
        managed.handle(Answered(worker.id, command.command, instance=instance), now)


@pytest.mark.parametrize("seed", [1, 3, 6, *map(long, (0, 2, 4, 5, 7))])
def test_no_cap_by_the_day_or_month_is_passed_however_long_drains_last(seed: int) -> None:
    random = Random(seed)
    caps = Limits(random.choice((None, 5.0)), random.uniform(0.3, 3), random.uniform(0.3, 3))
    market = Market(caps, random.randint(1, 3), random, longest_s=random.choice((2000.0, 20_000.0)))
    market.run(1.5 * 3600)
    assert sum(market.paid.values()) > 0
