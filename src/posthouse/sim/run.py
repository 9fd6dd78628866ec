"""One run of a scenario, from its first second until its last request is answered."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from posthouse.domain.lifecycle import COMING, Command, State
from posthouse.fleet.controller import Policy
from posthouse.sim.client import Client
from posthouse.sim.policies import policy
from posthouse.sim.record import Record, Sample, Summary, Waits, commands, hours, share_over
from posthouse.sim.scenario import Scenario
from posthouse.sim.world import START_AT, Pace, World

TAIL_S = 3600.0
"""How long after the last arrival requests may still be answered."""
STRETCH_S = 600.0
"""How often progress is reported, in virtual time."""
FIRST_SAMPLE_S = 10.0
"""Between two samples of a short run."""


@dataclass(frozen=True, slots=True)
class Result:
    summary: Summary
    record: Record


@dataclass(frozen=True, slots=True)
class _Bill:
    """What had come together by a moment."""

    usd: float = 0.0
    state_s: Mapping[State, float] = field(default_factory=lambda: dict.fromkeys(State, 0.0))
    ready_work: float = 0.0
    given: Mapping[Command, int] = field(default_factory=lambda: dict.fromkeys(Command, 0))

    @classmethod
    def of(cls, world: World) -> "_Bill":
        audit = world.audit
        audit.close_bill(world.now)
        return cls(audit.usd, dict(audit.state_s), audit.ready_work, dict(world.given))

    def since(self, before: "_Bill") -> "_Bill":
        return _Bill(
            self.usd - before.usd,
            {state: spent_s - before.state_s[state] for state, spent_s in self.state_s.items()},
            self.ready_work - before.ready_work,
            {command: times - before.given[command] for command, times in self.given.items()},
        )


class _RecordedWorld(World):
    """A world that writes down what it came to."""

    def __init__(self, sample_s: float, warm_s: float, **world: Any) -> None:
        self.record = Record()
        self.sample_s, self._sampled_at = sample_s, -math.inf
        self._warm_at, self._offered_since = START_AT + warm_s, 0.0
        self.last_arrival_t = 0.0
        super().__init__(**world)

    def on_request(self, client: Client) -> None:
        self._offered_since += client.cost
        self.last_arrival_t = self.t
        if self.now >= self._warm_at:
            self.record.requests += 1
            self.record.offered += client.cost

    def on_end(self, client: Client) -> None:
        if client.asked_at >= self._warm_at:
            self.record.end(client)

    def on_tick(self) -> None:
        if self.now - self._sampled_at < self.sample_s or self.decision is None:
            return
        span_s = min(self.now - self._sampled_at, self.sample_s * 10)
        states = [w.state for w in self.fleet.workers.values()]
        record, self._sampled_at = self.record, self.now
        record.samples.append(
            Sample(
                t=self.t,
                load=self._offered_since / span_s,
                need=self.decision.hot_need,
                ready=self.decision.ready_supply,
                waiting=len(self.fleet.ledger.waiting),
                hot=states.count(State.IDLE),
                coming=sum(state in COMING for state in states),
                cold=states.count(State.STOPPED),
                usd_h=sum(w.usd_h() for w in self.fleet.workers.values()),
            )
        )
        self._offered_since = 0.0


def run(
    scenario: Scenario,
    repeat: str = "",
    log: Callable[[str], object] | None = None,
    progress: Callable[[float], object] = lambda t: None,
    around: Callable[[Policy], Policy] = lambda policy: policy,
) -> Result:
    """What a scenario comes to. Raises: BadRequest, BrokenRule.

    `progress`: called with the virtual time now and then. `around`: what the policy is wrapped in, to watch it.
    """
    span_s = scenario.traffic.span_s or (0.0 if scenario.traffic.trace else 7200.0)
    world = _RecordedWorld(
        sample_s=max(FIRST_SAMPLE_S, span_s / 2000),
        warm_s=scenario.warm_s,
        scaling=scenario.parameters(),
        traffic=scenario.traffic.arrivals(scenario.seed),
        hardware=scenario.hardware(),
        seed=scenario.seed,
        policy=around(policy(scenario)),
        behaviour=scenario.clients.behaviour(),
        pace=Pace(tick_s=scenario.tick_s),
        log=log,
        repeat=repeat,
    )
    until_t, before = scenario.warm_s, _Bill()
    if until_t:  # what happens at 0 counts where all does
        before = _Bill.of(world.run(until_t))
    while world.t < span_s or world.expects_more:
        until_t = min(until_t + STRETCH_S, span_s) if span_s else until_t + STRETCH_S
        world.run(until_t)
        progress(world.t)
        if span_s and until_t >= span_s:
            break
    end_t = span_s or world.last_arrival_t
    bill = _Bill.of(world).since(before)
    while world.pending and world.t < end_t + TAIL_S:
        world.run(world.t + 10.0)
    return Result(_summary(scenario, world, end_t - scenario.warm_s, bill), world.record)


def _summary(
    scenario: Scenario,
    world: _RecordedWorld,
    span_s: float,
    bill: _Bill,
) -> Summary:
    record = world.record
    done = sum(record.work)
    left = max(0.0, record.offered - done - record.unserved_work)
    ready_h, loading_h, stopped_h = hours(bill.state_s)
    rents, starts, stops, destroys = commands(bill.given)
    unserved_work = record.unserved_work + left
    return Summary(
        policy=scenario.policy,
        seed=scenario.seed,
        span_s=round(span_s, 3),
        requests=record.requests,
        answered=len(record.wait_s),
        unserved=record.requests - len(record.wait_s),
        unserved_work=round(unserved_work / record.offered, 6) if record.offered else 0.0,
        usd=round(bill.usd, 6),
        ready_h=round(ready_h, 4),
        loading_h=round(loading_h, 4),
        stopped_h=round(stopped_h, 4),
        rents=rents,
        starts=starts,
        stops=stops,
        destroys=destroys,
        wait_s=Waits.of(record.wait_s),
        route_s=Waits.of(record.route_s),
        over_goal=round(share_over(record, scenario.goal_s, left), 6),
        route_over_goal=round(share_over(record, scenario.goal_s, left, until_routed=True), 6),
        goal_s=scenario.goal_s,
        busy=round(done / bill.ready_work, 4) if bill.ready_work else 0.0,
    )
