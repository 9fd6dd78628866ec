"""The simulated world with what scenarios need: a load as a function, one type of machine, everything remembered."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from posthouse.domain.endpoint import Scaling
from posthouse.domain.lifecycle import Command, State
from posthouse.domain.offer import Price
from posthouse.domain.worker import WorkerId
from posthouse.policy.capacity import ready
from posthouse.sim import world as sim
from posthouse.sim.client import Client
from posthouse.sim.instance import HEARTBEAT_S, SimInstance
from posthouse.sim.market import Duration, Hardware

START_AT = sim.START_AT
PACE = sim.Pace(hold_s=3.5, silent_s=45.0, bell=False)
"""A bell would only blur when things happen."""
TICK_S, LIST_S, ANSWER_S, HOLD_S, SILENT_S = PACE.tick_s, PACE.list_s, PACE.answer_s, PACE.hold_s, PACE.silent_s

__all__ = [
    "ANSWER_S",
    "HEARTBEAT_S",
    "HOLD_S",
    "LIST_S",
    "SILENT_S",
    "START_AT",
    "TICK_S",
    "Client",
    "Machines",
    "SimInstance",
    "World",
]


@dataclass(frozen=True)
class Machines:
    """What the provider rents out. Times are from one phase to the next."""

    perf: float = 100.0
    create_s: float = 10.0
    load_s: float = 20.0
    start_s: float = 5.0
    lanes: int = 4
    price: Price = field(default_factory=lambda: Price(ready_usd_h=1.0, loading_usd_h=0.5, stopped_usd_h=0.1))
    available: int = 1000

    def hardware(self) -> Hardware:
        return Hardware(
            perf=self.perf,
            slots=self.lanes,
            price=self.price,
            create=Duration(self.create_s),
            load=Duration(self.load_s),
            start=Duration(self.start_s),
            available=self.available,
            per_host=self.available,
        )


@dataclass(frozen=True, slots=True)
class Moment:
    """What stood after a tick."""

    t: float
    need: float
    supply: float
    states: tuple[State, ...]
    usd_h: float
    ready: int
    """Workers that take requests."""
    due: int
    """Workers that wait for their update."""

    def number(self, *states: State) -> int:
        return sum(state in states for state in self.states)


class World(sim.World):
    """`load(t)` is offered work per second, in requests of `cost`, evenly spaced or `poisson`."""

    label = "test-"

    def __init__(
        self,
        scaling: Scaling,
        load: Callable[[float], float] = lambda t: 0.0,
        cost: float = 100.0,
        machines: Machines | None = None,
        seed: int = 0,
        poisson: bool = False,
    ) -> None:
        self.machines, self.cost = machines or Machines(), cost
        self.clients: list[Client] = []
        self.commands: list[tuple[float, WorkerId, Command]] = []
        self.history: list[Moment] = []
        self.load, self._arrivals = load, Random(seed) if poisson else None
        super().__init__(scaling, (), (self.machines.hardware(),), seed, pace=PACE)
        self.after(0.0, self._arrive_by_load)

    def _arrive_by_load(self) -> None:
        rate = self.load(self.t) / self.cost
        if rate <= 0:
            self.after(0.5, self._arrive_by_load)
            return
        gap_s = self._arrivals.expovariate(rate) if self._arrivals else 1 / rate
        # Even arrivals fall between the seconds, so that rounding never moves one into the next.
        self.after(gap_s if self._arrivals else gap_s / 2, self.request)
        self.after(gap_s, self._arrive_by_load)

    def request(self, cost: float | None = None, broken: bool = False) -> Client:
        """A new request, asked now. `broken`: its client reaches no worker."""
        return super().request(self.cost if cost is None else cost, broken)

    def on_request(self, client: Client) -> None:
        self.clients.append(client)

    def on_command(self, worker_id: WorkerId, command: Command) -> None:
        self.commands.append((self.t, worker_id, command))

    def on_tick(self) -> None:
        workers = self.fleet.workers.values()
        need, supply = (self.decision.hot_need, self.decision.hot_supply) if self.decision else (0.0, 0.0)
        usd_h = sum(w.usd_h() for w in workers)
        count, due = len(ready(workers)), sum(w.outdated_at > 0 for w in workers)
        self.history.append(Moment(self.t, need, supply, tuple(w.state for w in workers), usd_h, count, due))

    # -- questions -----------------------------------------------------------------------------------------------

    def count(self, *states: State) -> int:
        """How many workers are in one of `states` now."""
        return sum(w.state in states for w in self.fleet.workers.values())

    def times(self, command: Command) -> list[float]:
        """When `command` was given, to whichever worker."""
        return [t for t, _, given in self.commands if given is command]

    def unanswered(self) -> int:
        return sum(not c.answered_at for c in self.clients)
