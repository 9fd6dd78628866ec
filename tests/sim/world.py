"""A small world in virtual time: machines, their provider, workers and clients around the fleet that the server runs.

The fleet and the decisions are the shipped ones; only who tells and who obeys is simulated. One seed, one run.
Units: seconds since the start for everything a test sees (`t`), epoch seconds inside.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from itertools import count
from random import Random

from posthouse.domain.endpoint import Endpoint, EndpointId, EndpointState, Scaling
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Command, Sighting, State
from posthouse.domain.load import Ended, Report
from posthouse.domain.offer import GroupOffer, Offer, Price
from posthouse.domain.plan import Action, Decision, Memory
from posthouse.domain.worker import Worker, WorkerId
from posthouse.domain.workergroup import WorkergroupId
from posthouse.fleet.fleet import Assignment, Fleet
from posthouse.policy.capacity import ready
from posthouse.policy.decide import decide

START_AT = 1_700_000_000.0
"""When the world begins, as an epoch."""
TICK_S, LIST_S, BEAT_S, REPORT_S = 1.0, 2.0, 1.0, 10.0
"""Periods of the control loop, of the provider's list, of a worker's own loop, and of its report if nothing changes."""
ANSWER_S = 0.2
"""How long a provider takes to answer a command, and a list."""
HOLD_S = 3.5
"""How long a request without a worker is held open."""
SILENT_S = 45.0
"""A worker without a report for this long is silent."""


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


@dataclass(slots=True)
class Box:
    """An instance, with the worker that runs on it."""

    worker_id: WorkerId
    label: str
    lanes: list[float]
    seen: Sighting = Sighting.PROVISIONING
    ready: bool = False
    life: int = 0
    """Raised whenever it ends or begins anew: what was begun in an earlier life does not happen."""
    working: dict[int, "Client"] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)
    reported_at: float = 0.0
    changed: bool = True
    deaf: bool = False
    """It refuses connections, and reports on."""
    progress: int = 0
    version: int = 0
    """Of the template that it runs."""

    @property
    def address(self) -> str:
        return f"10.0.0.1:{self.worker_id}"


@dataclass(slots=True, eq=False)
class Client:
    """One request and whoever waits for its answer."""

    cost: float
    asked_at: float
    broken: bool = False
    """It reaches no worker."""
    idx: int = 0
    polls: int = 0
    answered_at: float = 0.0
    workers: list[WorkerId] = field(default_factory=list)
    """The workers it was sent to, in order."""


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


class World:
    """`load(t)` is offered work per second, in requests of `cost`, evenly spaced or `poisson`."""

    def __init__(
        self,
        scaling: Scaling,
        load: Callable[[float], float] = lambda t: 0.0,
        cost: float = 100.0,
        machines: Machines | None = None,
        seed: int = 0,
        poisson: bool = False,
    ) -> None:
        self.now = START_AT
        self.machines = machines or Machines()
        self.endpoint = Endpoint(EndpointId(1), "test", scaling)
        self.fleet = Fleet(self.endpoint, self.now)
        self.memory = Memory()
        self.decision: Decision | None = None
        self.load, self.cost, self.poisson = load, cost, poisson
        self.boxes: dict[str, Box] = {}
        self.clients: list[Client] = []
        self.held: dict[Client, float] = {}
        self.rows: dict[WorkerId, Worker] = {}
        self.commands: list[tuple[float, Action]] = []
        self.history: list[Moment] = []
        self.cut: list[int] = []
        """Requests that a stop or a destruction cut off."""
        self.listed = True
        self.down = False
        # Faults, switched by tests.
        self.refuse_creation = ""
        self.refuse_update: Callable[[Box], str] = lambda box: ""
        self.version = 0
        """Of the template: what is made or updated from now on runs it."""
        self.broken: set[int] = set()
        """Versions that end as soon as they start."""
        self.lose_answers = False
        self.lose_ends = False
        self.late_s: Callable[[Box], float] = lambda box: 0.0
        """How much longer than usual the first load takes; infinite: it never ends."""
        self.shows_progress = False
        self.speed = 1.0
        """How fast workers really are, as a share of what they say."""
        self._random = Random(seed)
        self._ids = (WorkerId(i) for i in count(1))
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()
        for first in (self._tick, self._list, self._arrive):
            self.after(0.0, first)

    # -- time ------------------------------------------------------------------------------------------------------

    @property
    def t(self) -> float:
        return self.now - START_AT

    def after(self, span_s: float, do: Callable[[], object]) -> None:
        """Has `do` happen `span_s` from now."""
        heappush(self._events, (self.now + span_s, next(self._order), do))

    def run(self, until_t: float) -> "World":
        """Lets time pass up to and with `until_t`."""
        while self._events and self._events[0][0] <= START_AT + until_t:
            self.now, _, do = heappop(self._events)
            do()
        self.now = START_AT + until_t
        return self

    # -- questions -----------------------------------------------------------------------------------------------

    def count(self, *states: State) -> int:
        """How many workers are in one of `states` now."""
        return sum(w.state in states for w in self.fleet.workers.values())

    def times(self, command: Command) -> list[float]:
        """When `command` was given, to whichever worker."""
        return [t for t, action in self.commands if action.command is command]

    def unanswered(self) -> int:
        return sum(not c.answered_at for c in self.clients)

    # -- the control plane: what the engine does ---------------------------------------------------------------------

    def _tick(self) -> None:
        self.after(TICK_S, self._tick)
        if self.down:
            return
        fleet = self.fleet
        fleet.age(self.now, SILENT_S)
        if self.listed:
            offer = Offer("o", "sim", "m", self.machines.price, "GPU", 1, self.machines.available - len(self.boxes))
            self.decision = decide(fleet.snapshot(self.now, (GroupOffer(WorkergroupId(1), offer),)), self.memory)
            self.memory = self.decision.memory
            fleet.tick(self.decision, self.now, self._ids, "test-")
            self.rows.update({w.id: w for w in fleet.take_changes()})
            for action in fleet.due(self.now):
                fleet.obey(action, self.now)
                self.commands.append((self.t, action))
                self.after(ANSWER_S, partial(self._carry_out, fleet, self.rows[action.worker_id], action.command))
            self._serve_held()
        workers = fleet.workers.values()
        need, supply = (self.decision.hot_need, self.decision.hot_supply) if self.decision else (0.0, 0.0)
        usd_h = sum(w.usd_h() for w in workers)
        count, due = len(ready(workers)), sum(w.outdated_at > 0 for w in workers)
        self.history.append(Moment(self.t, need, supply, tuple(w.state for w in workers), usd_h, count, due))

    def _serve_held(self) -> None:
        for client in sorted(self.held, key=lambda c: c.asked_at):
            outcome = self.fleet.assign(client.idx, client.cost, self.now)
            if not isinstance(outcome, Assignment):
                return
            del self.held[client]
            self._send(client, outcome)

    def configure(self, state: EndpointState = EndpointState.ACTIVE, **scaling: float | None) -> None:
        """Changes the endpoint's parameters."""
        changed = replace(self.endpoint.scaling, **scaling)  # type: ignore[arg-type]
        self.endpoint = replace(self.endpoint, scaling=changed, state=state)
        self.fleet.configure(self.endpoint)

    def update(self, broken: bool = False) -> None:
        """The template changes, and its workers are to be updated."""
        self.version += 1
        self.broken |= {self.version} if broken else set()
        self.fleet.ask_update(WorkergroupId(1), self.now)

    def restart(self, calm_s: float = 60.0, away_s: float = 0.0) -> None:
        """The server dies and begins anew from what was written down; answers on their way are lost."""
        self.down, self.listed, self.memory, self.decision = True, False, Memory(), None
        for client in self.held:
            self.after(1.0, partial(self._ask, client))
        self.held.clear()

        def begin() -> None:
            self.down, self.fleet = False, Fleet(self.endpoint, self.now, self.rows.values(), calm_s)

        self.after(away_s, begin)

    # -- the provider ------------------------------------------------------------------------------------------------

    def _list(self) -> None:
        self.after(LIST_S, self._list)
        asked_at, fleet = self.now, self.fleet
        found = [self._instance(box) for box in self.boxes.values()]

        def answer() -> None:
            if fleet is self.fleet and not self.down:
                fleet.observe("sim", found, asked_at, self.now)
                self.listed = True

        self.after(ANSWER_S, answer)

    def _instance(self, box: Box) -> Instance:
        box.progress += self.shows_progress and not box.ready
        return Instance(box.label, box.label, box.seen, frozenset({box.address}), progress=str(box.progress))

    def _carry_out(self, fleet: Fleet, worker: Worker, command: Command) -> None:
        box, failure = self.boxes.get(worker.label), ""
        if command is Command.RENT:
            failure = self.refuse_creation
            if not failure:
                box = self.boxes[worker.label] = Box(worker.id, worker.label, [0.0] * self.machines.lanes)
                box.version = self.version
                self._phase(box, self.machines.create_s / 2, Sighting.PULLING)
                if box.version in self.broken:
                    self._phase(box, self.machines.create_s, Sighting.EXITED)
                else:
                    self._phase(box, self.machines.create_s, Sighting.RUNNING)
                    self._become_ready(box, self.machines.create_s + self.machines.load_s + self.late_s(box))
        elif box is not None and command is Command.UPDATE:
            failure = self.refuse_update(box)
            if not failure:
                self.cut.extend(box.working)
                box.version = self.version
                self.kill(box, Sighting.EXITED if box.version in self.broken else Sighting.RUNNING)
                if box.version not in self.broken:
                    self._become_ready(box, self.machines.load_s)
        elif box is not None and command is Command.START:
            box.life += 1
            box.seen = Sighting.RUNNING
            self._become_ready(box, self.machines.start_s)
        elif box is not None:
            self.cut.extend(box.working)
            self.kill(box, Sighting.HALTED)
            if command is Command.DESTROY:
                del self.boxes[box.label]
        if fleet is not self.fleet or self.down:
            return  # nobody is there any more to hear the answer
        fleet.settle(worker.id, self.now, "" if self.lose_answers else failure, blame=command is Command.RENT)
        if command in (Command.RENT, Command.UPDATE) and box is not None and not failure and not self.lose_answers:
            if command is Command.UPDATE:
                fleet.updated(worker.id)
            fleet.place(worker.id, self._instance(box), self.now)

    def _phase(self, box: Box, span_s: float, seen: Sighting) -> None:
        def begin() -> None:
            if box.life == 0:
                box.seen = seen
                if seen is Sighting.RUNNING:
                    self._beat(box, 0)

        self.after(span_s, begin)

    def _become_ready(self, box: Box, span_s: float) -> None:
        life = box.life

        def begin() -> None:
            if box.life == life:
                box.ready, box.changed = True, True
                if life:
                    self._beat(box, life)

        self.after(span_s, begin)

    # -- workers -----------------------------------------------------------------------------------------------------

    def kill(self, box: Box, seen: Sighting) -> None:
        """Ends what runs in the instance, at once; its clients notice."""
        box.life += 1
        box.seen, box.ready, box.lanes = seen, False, [0.0] * len(box.lanes)
        clients, box.working = list(box.working.values()), {}
        for client in clients:
            self.after(0.01, partial(self._ask, client))

    def _beat(self, box: Box, life: int) -> None:
        if box.life != life:
            return
        self.after(BEAT_S, partial(self._beat, box, life))
        if self.down or box.worker_id not in self.fleet.workers:
            return
        for ended in box.ended:
            if not self.lose_ends:
                self.fleet.end(box.worker_id, ended, self.now)
        box.ended.clear()
        if box.changed or self.now - box.reported_at >= REPORT_S:
            box.changed, box.reported_at = False, self.now
            perf = self.machines.perf if box.ready else 0.0
            url = f"http://{box.address}"
            self.fleet.report(box.worker_id, Report(perf, "", url, "1.1.0", "U", frozenset(box.working)), self.now)
        self._serve_held()

    def _send(self, client: Client, to: Assignment) -> None:
        client.idx = to.request_idx
        client.workers.append(to.worker.id)
        box = self.boxes.get(to.worker.label)
        if box is None or not box.ready or box.deaf or client.broken:  # connection refused
            self.after(0.01, partial(self._ask, client))
            return
        lane = min(range(len(box.lanes)), key=box.lanes.__getitem__)
        end_at = max(self.now, box.lanes[lane]) + client.cost * len(box.lanes) / (self.machines.perf * self.speed)
        box.lanes[lane], box.working[client.idx], box.changed = end_at, client, True
        life = box.life

        def finish() -> None:
            if box.life == life:
                del box.working[client.idx]
                box.changed, client.answered_at = True, self.now
                box.ended.append(Ended(client.idx, success=True))

        self.after(end_at - self.now, finish)

    # -- clients -----------------------------------------------------------------------------------------------------

    def request(self, cost: float | None = None, broken: bool = False) -> Client:
        """A new request, asked now. `broken`: its client reaches no worker."""
        client = Client(self.cost if cost is None else cost, self.now, broken)
        self.clients.append(client)
        self._ask(client)
        return client

    def _arrive(self) -> None:
        rate = self.load(self.t) / self.cost
        if rate <= 0:
            self.after(0.5, self._arrive)
            return

        gap_s = self._random.expovariate(rate) if self.poisson else 1 / rate
        # Even arrivals fall between the seconds, so that rounding never moves one into the next.
        self.after(gap_s if self.poisson else gap_s / 2, self.request)
        self.after(gap_s, self._arrive)

    def _ask(self, client: Client) -> None:
        if self.down:
            self.after(1.0, partial(self._ask, client))
            return
        outcome = self.fleet.assign(client.idx, client.cost, self.now)
        if isinstance(outcome, Assignment):
            self._send(client, outcome)
            return
        client.idx = outcome.request_idx
        self.held[client] = held_at = self.now

        def give_up_holding() -> None:
            if self.held.get(client) == held_at:
                del self.held[client]
                # The cadence of the protocol's client: 1 s, then random up to 5 s.
                n, client.polls = client.polls, client.polls + 1
                longest_s = min(2**n + self._random.random(), 5.0)
                self.after(1.0 if n == 0 else self._random.uniform(0.1, longest_s), partial(self._ask, client))

        self.after(HOLD_S, give_up_holding)
