"""Money: what is committed and spent stays below every cap, across all endpoints, restarts, days, edits and prices."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count

import pytest
from msgspec import structs

from posthouse.budget import END_S, RESERVED_S, began
from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Command, Goal, Observation, State
from posthouse.domain.offer import GroupOffer, Offer, Price
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.treasury import Treasury
from posthouse.fleet.events import Answered, Commit, Configured, Listed, Offered, Reported, Run, Ticked, Written
from posthouse.policy.draft import committed_usd_h
from posthouse.ports import FleetRecord, PeriodRecord
from tests.kit.fleets import GROUP, ready_report
from tests.kit.rows import worker as a_worker

EVENING = datetime(2026, 1, 31, 22, tzinfo=UTC).timestamp()
"""Two hours before a month ends."""
SCALING = Scaling(min_load=90, cold_mult=1, cold_workers=0, max_workers=2)
"""Wants one worker of those that do 100."""


@dataclass(frozen=True)
class Limits:
    max_usd_h: float | None = None
    max_usd_day: float | None = None
    max_usd_month: float | None = None


class Book:
    """What a store keeps of it."""

    def __init__(self) -> None:
        self.kept: dict[tuple[EndpointId, str], PeriodRecord] = {}
        self.gone_usd: dict[EndpointId, float] = {}
        self.living: list[Worker] = []

    async def periods(self) -> Sequence[PeriodRecord]:
        return list(self.kept.values())

    async def put_periods(self, records: Sequence[PeriodRecord]) -> None:
        self.kept |= {(r.endpoint_id, r.kind): r for r in records}

    async def spent_usd(self) -> Mapping[EndpointId, float]:
        return self.gone_usd

    async def living_workers(self, but: Collection[EndpointId]) -> Sequence[Worker]:
        return [worker for worker in self.living if worker.endpoint_id not in but]


class House:
    """An installation in virtual time. What its machines cost is added up here once more, from what they do."""

    def __init__(self, caps: Limits, endpoints: int = 40, scaling: Scaling = SCALING, now: float = EVENING) -> None:
        self.now, self.caps, self.price = now, caps, Price(1.0, 1.0, 0.1)
        self.book, self.ids = Book(), count(1)
        self.rows: dict[EndpointId, dict[WorkerId, Worker]] = {EndpointId(i + 1): {} for i in range(endpoints)}
        self.scaling = dict.fromkeys(self.rows, scaling)
        self.machines: dict[EndpointId, dict[str, Instance]] = {i: {} for i in self.rows}
        self.paid: dict[float, float] = {}
        """By the day, in UTC."""
        self.working: dict[WorkerId, tuple[int, ...]] = {}
        """Requests that workers have and do not end."""
        self.allowed_usd_h = caps.max_usd_h or float("inf")

    async def start(self) -> None:
        """A life of the server, from what was written down."""
        self.treasury = Treasury(self.caps)
        await self.treasury.load(self.book)
        self.open: dict[EndpointId, ManagedEndpoint] = {}
        for endpoint_id, rows in self.rows.items():
            alive = [w for w in rows.values() if w.state is not State.DESTROYED]
            managed = ManagedEndpoint.open(
                Endpoint(endpoint_id, f"e{endpoint_id}", self.scaling[endpoint_id]),
                self.now,
                FleetRecord(1, tuple(alive), self.book.gone_usd.get(endpoint_id, 0.0)),
                deeds=self,
                label=f"x{endpoint_id}-",
            )
            self.open[endpoint_id] = managed
            self.treasury.settle(managed, self.now)

    def configure(self, scaling: Scaling) -> None:
        for endpoint_id, managed in self.open.items():
            self.scaling[endpoint_id] = scaling
            managed.handle(Configured(replace(managed.fleet.endpoint, scaling=scaling)), self.now)

    def set_price(self, usd_h: float) -> None:
        self.price = Price(usd_h, usd_h, usd_h / 10)
        for machines in self.machines.values():
            machines.update({label: replace(one, price=self.price) for label, one in machines.items()})

    async def run(self, seconds: float, step_s: float = 5.0) -> None:
        until = self.now + seconds
        while self.now < until:
            day = began("day", self.now)[0]
            self.paid[day] = self.paid.get(day, 0.0) + self.paid_usd_h() * step_s / 3600
            self.now += step_s
            for endpoint_id, managed in self.open.items():
                self.tick(endpoint_id, managed)
                self.check()
            await self.treasury.keep(self.book)

    def tick(self, endpoint_id: EndpointId, managed: ManagedEndpoint) -> None:
        machines = self.machines[endpoint_id]
        managed.handle(Listed("sim", tuple(machines.values()), self.now), self.now)
        for worker in managed.fleet.workers.values():
            if worker.label in machines and machines[worker.label].seen is Observation.RUNNING:
                working = self.working.get(worker.id, ())
                report = structs.replace(ready_report(perf=100.0, working=working), url=f"http://10.0.0.1:{worker.id}")
                managed.handle(Reported(worker.id, report), self.now)
        offer = Offer(f"o{self.price.ready_usd_h}", "sim", "m", self.price, "GPU", 1, available=9)
        managed.handle(Offered((GroupOffer(GROUP, offer),)), self.now)
        managed.handle(Ticked(self.new_ids(), self.treasury.cap(managed, self.now)), self.now)
        self.treasury.settle(managed, self.now)

    def new_ids(self) -> Iterator[WorkerId]:
        return (WorkerId(i) for i in self.ids)

    def committed_usd_h(self) -> float:
        return sum(committed_usd_h(w) for m in self.open.values() for w in m.fleet.workers.values())

    def paid_usd_h(self) -> float:
        running = Observation.RUNNING
        prices = [(one, one.price or Price()) for machines in self.machines.values() for one in machines.values()]
        return sum(p.ready_usd_h if one.seen is running else p.stopped_usd_h for one, p in prices)

    def check(self) -> None:
        assert self.committed_usd_h() <= self.allowed_usd_h + 1e-6

    # -- deeds ---------------------------------------------------------------------------------------------------------

    def wake(self, managed: ManagedEndpoint) -> None: ...

    def commit(self, managed: ManagedEndpoint, commit: Commit, now: float) -> None:
        endpoint_id = managed.fleet.endpoint.id
        for row in commit.rows:
            self.rows[endpoint_id][row.id] = row
            if row.state is State.DESTROYED:
                self.book.gone_usd[endpoint_id] = self.book.gone_usd.get(endpoint_id, 0.0) + row.spent_usd
        managed.handle(Written(True), now)

    def run_command(self, managed: ManagedEndpoint, command: Run, now: float) -> None:
        worker, machines = command.worker, self.machines[managed.fleet.endpoint.id]
        instance = None
        if command.command is Command.RENT:
            address = frozenset({f"10.0.0.1:{worker.id}"})
            instance = Instance(f"i{worker.id}", worker.label, Observation.RUNNING, address, price=self.price)
            machines[worker.label] = instance
        elif command.command is Command.DESTROY:
            machines.pop(worker.label, None)
        else:
            seen = Observation.HALTED if command.command is Command.STOP else Observation.RUNNING
            machines[worker.label] = replace(machines[worker.label], seen=seen)
        managed.handle(Answered(worker.id, command.command, instance=instance), now)


async def test_forty_endpoints_with_one_cap_never_commit_more() -> None:
    house = House(Limits(max_usd_h=5.0))
    await house.start()
    await house.run(60)
    assert house.committed_usd_h() == house.paid_usd_h() == 5.0
    said = [m.decision.because for m in house.open.values() if m.decision is not None]
    assert sum(any("the installation's max_usd_h 5" in r.rule for r in because) for because in said) >= 35
    await house.start()  # it dies, and starts over
    await house.run(60)
    assert house.committed_usd_h() == house.paid_usd_h() == 5.0


async def test_a_price_that_doubles_drains_who_came_last() -> None:
    house = House(Limits(max_usd_h=5.0))
    await house.start()
    await house.run(30)
    first = sorted(i for i, machines in house.machines.items() if machines)
    house.set_price(2.0)
    house.allowed_usd_h = 10.0  # until all have been listed and have drained
    await house.run(10)
    house.allowed_usd_h = 5.0
    await house.run(60)
    assert house.paid_usd_h() <= 5.0
    serving = sorted(i for i, m in house.open.items() if any(w.state is State.IDLE for w in m.fleet.workers.values()))
    assert serving == first[:2]


async def test_a_lowered_cap_holds_within_one_drain() -> None:
    house = House(Limits(max_usd_h=5.0))
    await house.start()
    await house.run(30)
    house.caps = Limits(max_usd_h=2.5)
    await house.start()
    await house.run(10)
    house.allowed_usd_h = 2.5
    await house.run(30)
    assert 1.0 <= house.paid_usd_h() <= 2.5


@pytest.mark.parametrize("kind", ["day", "month"])
async def test_a_day_ends_below_its_cap_and_the_next_begins_anew(kind: str) -> None:
    house = House(Limits(**{f"max_usd_{kind}": 3.0}), endpoints=3)
    await house.start()
    await house.run(1800, 30)
    assert house.paid_usd_h() == 3.0
    await house.start()  # it dies, and starts over
    await house.run(1800 + 5400, 30)
    today, tomorrow = sorted(house.paid)
    assert 3.0 - 3.0 * RESERVED_S / 3600 <= house.paid[today] <= 3.0
    assert house.paid[tomorrow] > 1.0
    assert house.paid_usd_h() == 3.0


async def test_what_an_endpoint_spent_that_was_deleted_counts_for_the_day() -> None:
    house = House(Limits(max_usd_day=3.0), endpoints=2)
    await house.start()
    await house.run(3600, 10)
    spent = sum(house.paid.values())
    for managed in house.open.values():
        managed.close(house.now)
    await house.run(60, 10)
    assert house.paid_usd_h() == 0.0
    house.rows, house.scaling = {EndpointId(9): {}}, {EndpointId(9): SCALING}
    house.machines[EndpointId(9)] = {}
    await house.start()
    (shown,) = house.treasury.left(house.now)
    assert shown.used == pytest.approx(sum(house.paid.values()), rel=0.02)
    await house.run(3000, 10)
    assert spent < sum(house.paid.values()) <= 3.0


async def test_an_endpoint_has_caps_of_its_own() -> None:
    house = House(Limits(), endpoints=1, scaling=replace(SCALING, max_usd_day=2.0))
    await house.start()
    await house.run(1800, 10)
    (managed,) = house.open.values()
    assert house.paid_usd_h() == 1.0
    house.configure(replace(SCALING, max_usd_day=0.6))
    house.treasury.warn(managed, house.now)
    house.treasury.warn(managed, house.now)
    warnings = [line.text for line in managed.history.lines() if "max_usd_day 0.6" in line.text]
    assert warnings == ["max_usd_day 0.6: $0.50 used, $0.10 left until 2026-02-01 00:00 UTC"]
    await house.run(60, 10)
    assert house.paid_usd_h() <= 0.1
    assert managed.decision is not None
    assert any("max_usd_day 0.6" in reason.rule for reason in managed.decision.because)
    assert sum(house.paid.values()) <= 0.6


async def test_a_worker_that_serves_while_money_ends_drains_before_it_is_gone() -> None:
    house = House(Limits(max_usd_day=1.0), endpoints=1)
    await house.start()
    await house.run(600, 10)
    (managed,) = house.open.values()
    managed.assign(0, 100, house.now)  # and its worker is at it
    (worker,) = managed.fleet.workers.values()
    await house.run(2400, 10)
    assert managed.fleet.workers[worker.id].goal is not Goal.HOT or house.paid_usd_h() == 1.0
    assert sum(house.paid.values()) <= 1.0


async def serving_house(**caps: float) -> tuple[House, ManagedEndpoint, Worker]:
    """One endpoint, whose worker has a request that does not end."""
    house = House(Limits(**caps), endpoints=1)
    await house.start()
    await house.run(600, 10)
    (managed,) = house.open.values()
    outcome = managed.assign(0, 100, house.now)
    (worker,) = managed.fleet.workers.values()
    house.working[worker.id] = (outcome.request_idx,)
    return house, managed, worker


async def test_a_drain_goes_on_while_there_is_money_and_ends_when_there_is_none() -> None:
    house, managed, worker = await serving_house(max_usd_day=0.6)
    while sum(house.paid.values()) < 0.6 - END_S / 3600 - 0.01:
        await house.run(10, 10)
        assert house.paid_usd_h() == 1.0, "it has its money"
    assert managed.fleet.workers[worker.id].goal is not Goal.HOT
    await house.run(120, 10)
    assert house.paid_usd_h() <= 0.1
    assert sum(house.paid.values()) <= 0.6
    (line,) = [line.text for line in managed.history.lines() if "its drain is ended" in line.text]
    assert line == "its drain is ended with its 1 requests: a cap has no money left for it"


async def test_explain_names_the_cap_that_ended_a_drain() -> None:
    house, managed, worker = await serving_house(max_usd_day=0.6)
    said: set[str] = set()
    while house.paid_usd_h() == 1.0:
        await house.run(10, 10)
        assert managed.decision is not None
        said |= {reason.rule for reason in managed.decision.because if reason.what == "drains"}
    rule = "the installation's max_usd_day 0.6 has no money left for draining workers; ended with their requests: "
    assert said == {f"{rule}{worker.id}"}


async def test_what_an_endpoint_has_that_is_deleted_drains_no_longer_than_there_is_money() -> None:
    house, managed, _ = await serving_house(max_usd_day=0.6)
    managed.close(house.now)
    await house.run(600, 10)
    assert house.paid_usd_h() == 1.0
    await house.run(1800, 10)
    assert house.paid_usd_h() == 0.0
    assert 0.5 < sum(house.paid.values()) <= 0.6


async def test_no_more_is_started_before_midnight_than_the_next_day_pays_for() -> None:
    house = House(Limits(max_usd_day=1.0), endpoints=40, now=EVENING + 7200 - 300)
    await house.start()
    await house.run(240)
    assert house.paid_usd_h() == 4.0, "what a day's dollar pays for a quarter of an hour"


async def test_what_other_servers_have_counts_for_the_caps_of_all() -> None:
    dollar, there = Price(1.0, 1.0, 0.1), EndpointId(7)
    house = House(Limits(max_usd_h=3.0), endpoints=4)
    house.book.gone_usd[there] = 5.0
    house.book.living = [
        a_worker(number, endpoint_id=there, state=State.IDLE, goal=Goal.HOT, price=dollar, since=EVENING)
        for number in (901, 902)
    ]
    await house.start()
    await house.treasury.meet(house.book, house.open.keys(), house.now)
    assert house.treasury.committed_usd_h() == pytest.approx(2.0)
    house.allowed_usd_h = 1.0
    await house.run(120)
    assert house.committed_usd_h() == pytest.approx(1.0)
    assert house.treasury.spent_usd(house.now) > 5.0 + 2.0 * 120 / 3600
    house.book.living = []  # they are gone
    await house.treasury.meet(house.book, house.open.keys(), house.now)
    house.allowed_usd_h = 3.0
    await house.run(120)
    assert house.committed_usd_h() == pytest.approx(3.0)
