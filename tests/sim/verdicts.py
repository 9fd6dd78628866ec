"""A drill of verdicts and of estimates, in virtual time: `python -m tests.sim.verdicts` prints what came of it.

Each case is a world that is short of capacity for one reason, which its construction knows, and a moment at which the
endpoint is asked what it is stuck on. Numbers differ from case to case, by a seed: load, machines, prices, times.
"""

import argparse
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Final

from posthouse.budget import RESERVED_S
from posthouse.config import Money
from posthouse.domain.endpoint import EndpointState, Scaling
from posthouse.domain.lifecycle import COMING, State
from posthouse.domain.offer import Price
from posthouse.engine.estimate import expected
from posthouse.engine.figures import figures
from posthouse.engine.managed import Expected, ManagedEndpoint
from posthouse.engine.measured import Log
from posthouse.engine.treasury import Treasury
from posthouse.engine.verdict import verdict
from posthouse.fleet.events import Dismissed, Effect, Event, Moved, Ticked
from posthouse.sim.market import Duration, Hardware
from tests.sim.world import Machines, World

PERF: Final = 100.0
WARM_S: Final = 200.0
"""Long enough for every start of a case to be over, and for the mean of the load to be what it is."""


@dataclass(frozen=True)
class Kind(Machines):
    """One type of machine, as the case wants it."""

    type: Hardware = field(default_factory=Hardware)

    def hardware(self) -> Hardware:
        return self.type


class Drilled(World):
    """A world whose controller is asked as the server asks it, with the server's caps on money."""

    def __init__(self, scaling: Scaling, load: Callable[[float], float], kind: Hardware, **more: Any) -> None:
        self.treasury = Treasury(more.pop("caps", Money()))
        self.managed: ManagedEndpoint | None = None
        self.moves: list[tuple[float, Moved]] = []
        super().__init__(scaling, load, machines=Kind(type=kind), **more)

    def endpoint_here(self) -> ManagedEndpoint:
        if self.managed is None or self.managed.fleet is not self.fleet:
            self.managed = ManagedEndpoint(self.fleet, Log(self.now))
        return self.managed

    def tell(self, event: Event) -> None:
        if isinstance(event, Ticked):
            event = event._replace(cap=self.treasury.cap(self.endpoint_here(), self.now))
            super().tell(event)
            self.treasury.settle(self.endpoint_here(), self.now)
        else:
            super().tell(event)

    def _do(self, effect: Effect) -> None:
        if isinstance(effect, Moved):
            self.moves.append((self.now, effect))
            if effect.after.state is State.DESTROYED:
                self.endpoint_here().gone.append((self.now, effect.after))
        super()._do(effect)

    def word(self) -> str:
        """What the endpoint says that it is stuck on; `none` where it has what it needs."""
        managed = self.endpoint_here()
        found = verdict(managed, figures(managed, self.now), self.now)
        return "none" if found is None else found.word


@dataclass(frozen=True)
class Case:
    truth: str
    told: str
    text: str

    @property
    def right(self) -> bool:
        return self.truth == self.told


def spread(random: Random, median_s: float) -> Duration:
    return Duration(median_s, median_s * random.uniform(1.1, 2.0))


class Numbers:
    """What differs from case to case."""

    def __init__(self, seed: str) -> None:
        self.random = random = Random(seed)
        self.workers = random.randint(2, 4)
        """As many as the load takes."""
        self.load = self.workers * PERF * random.uniform(0.7, 0.85)
        self.usd_h = round(random.uniform(0.2, 3.0), 2)
        self.kind = Hardware(
            perf=PERF,
            slots=random.choice((1, 2, 4)),
            price=Price(self.usd_h, self.usd_h, self.usd_h / 10),
            create=spread(random, random.uniform(5, 20)),
            load=spread(random, random.uniform(10, 40)),
            start=spread(random, random.uniform(3, 30)),
        )
        self.scaling = Scaling(min_load=0, cold_workers=0, cold_mult=1, max_workers=20, inactivity_timeout=600)

    def world(self, load: Callable[[float], float] | None = None, **changes: Any) -> Drilled:
        kind = replace(self.kind, **{n: v for n, v in changes.items() if n in Hardware.__dataclass_fields__})
        scaling = replace(self.scaling, **{n: v for n, v in changes.items() if n in Scaling.__dataclass_fields__})
        more = {n: changes[n] for n in ("caps",) if n in changes}
        cost = self.random.choice((100.0, 200.0))
        return Drilled(
            scaling,
            load or (lambda t: self.load),
            kind,
            cost=cost,
            seed=self.random.randrange(10**6),
            poisson=True,
            **more,
        )

    def pays_for_half(self, span_s: float = 3600.0) -> float:
        """What half of the workers cost in that time, and a little."""
        return self.usd_h * max(1, self.workers // 2) * 1.1 * span_s / 3600.0

    def doubled(self, t: float) -> float:
        """A load that grows when all is warm."""
        return self.load * (2.2 if t > WARM_S else 1)

    def later(self, least_s: float = WARM_S) -> float:
        return least_s + self.random.uniform(0, 60)


# -- what there is to be stuck on --------------------------------------------------------------------------------------


def enough(n: Numbers) -> Drilled:
    """Steady load, and all that it takes."""
    world = n.world(ready=n.workers + 2)
    world.run(n.later())
    return world


def at_rest(n: Numbers) -> Drilled:
    """Nobody asks."""
    world = n.world(load=lambda t: 0.0, stopped=n.random.randint(0, 3))
    world.run(n.later())
    return world


def first_start(n: Numbers) -> Drilled:
    """From nothing, before the first is ready."""
    world = n.world()
    world.run(2.0 + n.random.random() * 3)
    while world.run(world.t + n.random.uniform(1, 10)) and not _coming(world):
        pass
    return world


def cold_start(n: Numbers) -> Drilled:
    """From stopped workers."""
    world = n.world(load=lambda t: n.load if t > 100 else 0.0, stopped=n.workers + 1)
    world.run(101.5 + n.random.random())
    return world


def growth(n: Numbers) -> Drilled:
    """Twice the load: what it takes is on its way."""
    world = n.world(load=n.doubled, ready=n.workers)
    while world.t < WARM_S + 120:
        world.run(world.t + 3)
        decision = world.decision
        if world.t > WARM_S + 5 and decision and decision.hot_supply >= decision.hot_need > _ready(world):
            break
    return world


def one_bad_machine(n: Numbers) -> Drilled:
    """One of several fails while it loads; the next is on its way."""
    world = n.world()
    world.run(3.0)
    while world.run(world.t + 1.0) and not _coming(world):
        pass
    first = next(instance for instance in world.instances.values())
    first.host.broken = True
    first.life += 1  # it never becomes ready
    world.run(world.t + n.random.uniform(1, 10))
    return world


def limit(n: Numbers) -> Drilled:
    """More load than so many workers can do."""
    most = max(1, n.workers // 2)
    world = n.world(max_workers=most, ready=most if n.random.random() < 0.5 else 0)
    world.run(n.later())
    return world


def limit_while_starting(n: Numbers) -> Drilled:
    """The same, while those that may be are not ready yet."""
    world = n.world(max_workers=max(1, n.workers // 2), ready=1)
    world.run(60.0 + n.random.uniform(0, 30))
    return world


def cap_of_the_hour(n: Numbers) -> Drilled:
    world = n.world(max_usd_h=n.pays_for_half())
    world.run(n.later())
    return world


def cap_of_the_day(n: Numbers) -> Drilled:
    """A cap that pays for half of the workers until midnight."""
    world = n.world(max_usd_day=n.pays_for_half(RESERVED_S))
    world.run(n.later())
    return world


def cap_of_the_month(n: Numbers) -> Drilled:
    world = n.world(max_usd_month=n.pays_for_half(RESERVED_S))
    world.run(n.later())
    return world


def cap_of_all(n: Numbers) -> Drilled:
    world = n.world(caps=Money(max_usd_h=n.pays_for_half()))
    world.run(n.later())
    return world


def cap_of_all_for_the_day(n: Numbers) -> Drilled:
    world = n.world(caps=Money(max_usd_day=n.pays_for_half(RESERVED_S)))
    world.run(n.later())
    return world


def market_is_empty(n: Numbers) -> Drilled:
    world = n.world(available=0)
    world.run(n.later(20.0))
    return world


def market_is_taken(n: Numbers) -> Drilled:
    """It had some, and they are all ours."""
    world = n.world(available=max(1, n.workers // 2))
    world.run(n.later())
    return world


def market_goes(n: Numbers) -> Drilled:
    """What is offered goes, and load grows."""
    world = n.world(load=n.doubled, ready=n.workers, available=n.workers)
    world.run(WARM_S + 100 + n.random.uniform(0, 100))
    return world


def template_is_broken(n: Numbers) -> Drilled:
    """Whatever is made ends when it starts."""
    world = n.world()
    world.broken.add(0)
    world.run(n.later(300.0))
    return world


def quota(n: Numbers) -> Drilled:
    world = n.world()
    world.refuse_creation = n.random.choice(
        (
            "rent: quota exceeded: 4 of 4 GPUs",
            "rent: the account's limit of instances is exceeded",
            "rent: QuotaExceeded",
            "rent: the limit of instances is reached",
        )
    )
    world.run(n.later(100.0))
    return world


def provider_refuses(n: Numbers) -> Drilled:
    world = n.world()
    world.refuse_creation = n.random.choice(
        ("rent: account is locked", "rent: image is not allowed", "rent: no credit")
    )
    world.run(n.later(100.0))
    return world


def limit_after_a_failure(n: Numbers) -> Drilled:
    """Some were refused, others came; now there are as many as may be."""
    world = n.world(max_workers=max(1, n.workers // 2), refused=0.3)
    world.run(n.later())
    return world


def growth_that_fails(n: Numbers) -> Drilled:
    """Some serve; what is made for more load fails on machine after machine."""
    world = n.world(load=n.doubled, ready=n.workers)
    world.broken.add(0)
    world.run(WARM_S + 300 + n.random.uniform(0, 60))
    return world


def cap_of_growth(n: Numbers) -> Drilled:
    """Some serve; more than the cap would be needed."""
    world = n.world(load=n.doubled, ready=n.workers, max_usd_h=n.usd_h * n.workers * 1.05)
    world.run(WARM_S + 100 + n.random.uniform(0, 60))
    return world


def burst(n: Numbers) -> Drilled:
    """More at once than the workers may have, and over before more would be there."""
    world = n.world(ready=n.workers + 1, max_queue_time=1.0)
    world.run(n.later())
    for _ in range(3 * n.workers):
        world.request()
    world.run(world.t + 0.5)
    return world


def suspended(n: Numbers) -> Drilled:
    world = n.world(ready=1)
    world.run(1.0)
    world.configure(EndpointState.SUSPENDED)
    world.run(n.later(30.0))
    return world


def stopped(n: Numbers) -> Drilled:
    world = n.world()
    world.configure(EndpointState.STOPPED)
    world.run(n.later(30.0))
    return world


def switched_off_and_nobody_asks(n: Numbers) -> Drilled:
    world = n.world(load=lambda t: 0.0)
    world.configure(n.random.choice((EndpointState.STOPPED, EndpointState.SUSPENDED)))
    world.run(n.later(30.0))
    return world


def _coming(world: Drilled) -> int:
    return world.count(*COMING)


def _ready(world: Drilled) -> float:
    return world.count(State.IDLE) * PERF


TRUTHS: Final[dict[Callable[[Numbers], Drilled], str]] = {
    enough: "none",
    at_rest: "none",
    switched_off_and_nobody_asks: "none",
    first_start: "starting",
    cold_start: "starting",
    growth: "starting",
    one_bad_machine: "starting",
    limit: "limit.max_workers",
    limit_while_starting: "limit.max_workers",
    cap_of_the_hour: "cap.endpoint.max_usd_h",
    cap_of_the_day: "cap.endpoint.max_usd_day",
    cap_of_the_month: "cap.endpoint.max_usd_month",
    cap_of_all: "cap.installation.max_usd_h",
    cap_of_all_for_the_day: "cap.installation.max_usd_day",
    market_is_empty: "no_offer",
    market_is_taken: "no_offer",
    market_goes: "no_offer",
    template_is_broken: "crash_loop",
    quota: "quota",
    provider_refuses: "refused",
    limit_after_a_failure: "limit.max_workers",
    growth_that_fails: "crash_loop",
    cap_of_growth: "cap.endpoint.max_usd_h",
    burst: "busy",
    suspended: "suspended",
    stopped: "stopped",
}


def cases(count: int, of: Collection[Callable[[Numbers], Drilled]] = ()) -> Iterator[Case]:
    """So many cases, of every kind in turn, or of some."""
    kinds = [(make, truth) for make, truth in TRUTHS.items() if not of or make in of]
    for number in range(count):
        make, truth = kinds[number % len(kinds)]
        world = make(Numbers(f"{make.__name__}/{number // len(kinds)}"))
        managed = world.endpoint_here()
        found = verdict(managed, figures(managed, world.now), world.now)
        if make is burst and _coming(world):  # it was more than they may wait for
            truth = "starting"
        yield Case(truth, world.word(), f"{make.__name__} {number // len(kinds)} at {world.t:.0f} s: {found}")


# -- estimates of starts -----------------------------------------------------------------------------------------------

WAKE_S, REST_S, WAKES = 170.0, 80.0, 24
"""How long somebody asks, then nobody, and how often."""


class Waking(Drilled):
    """A world that is woken again and again, and asked at a moment of each start when it will be over."""

    def __init__(self, n: Numbers, cold: bool) -> None:
        """`cold`: its workers rest in between; else they are gone, and others are made."""
        self.random, self.cold = n.random, cold
        self.usual_s = n.kind.start.median_s if cold else n.kind.create.median_s + n.kind.load.median_s
        self.open_estimates: list[tuple[float, Expected]] = []
        self.hits: list[bool] = []
        """Of each estimate, whether the first worker came within its interval."""
        self.look_at = 0.0
        scaling = replace(n.scaling, inactivity_timeout=5, max_workers=n.random.choice((1, 1, 3)))
        more = {"cost": 100.0, "seed": n.random.randrange(10**6), "poisson": True}
        super().__init__(scaling, self._load, n.kind, **more)

    @staticmethod
    def _load(t: float) -> float:
        return 0.6 * PERF if t % (WAKE_S + REST_S) < WAKE_S else 0.0

    def on_tick(self) -> None:
        super().on_tick()
        if self.count(State.IDLE):
            self.hits += [found.from_s <= self.now - at <= found.by_s for at, found in self.open_estimates]
            self.open_estimates, self.look_at = [], 0.0
        elif self.count(*COMING):
            self.look_at = self.look_at or self.now + self.random.uniform(0, self.usual_s)
            if self.now >= self.look_at and not self.open_estimates:
                found = expected(self.endpoint_here(), self.now)
                self.open_estimates += [(self.now, found)] if found.by_s else []


def estimates(worlds: int) -> list[bool]:
    """Whether each estimate held."""
    held = []
    for number in range(worlds):
        world = Waking(Numbers(f"estimates/{number}"), cold=number % 2 == 0)
        for wake in range(WAKES):
            world.run(wake * (WAKE_S + REST_S) + WAKE_S + REST_S / 2)
            if not world.cold:
                world.tell(Dismissed(tuple(world.fleet.workers)))
        held += world.hits
    return held


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="?", type=int, default=208)
    parser.add_argument("worlds", nargs="?", type=int, default=20, help="of estimates")
    parser.add_argument("--record", type=Path, help="write what was shown")
    args = parser.parse_args()
    found = []
    for case in cases(args.cases):
        found.append(case)
        if not case.right:
            print(f"{case.truth} was called {case.told}: {case.text}", flush=True)
    right = sum(case.right for case in found)
    print(f"{right} of {len(found)} verdicts are right", flush=True)
    held = estimates(args.worlds)
    print(f"{sum(held)} of {len(held)} estimates held, {sum(held) / len(held):.1%}")
    if args.record:
        shown = {"verdicts": {"cases": len(found), "right": right}, "estimates": {"made": len(held), "held": sum(held)}}
        args.record.write_text(json.dumps(shown, indent=1) + "\n")


if __name__ == "__main__":
    main()
