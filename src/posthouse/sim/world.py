"""A world in virtual time around the controller that the server runs.

The controller, its decisions and its routing are the shipped ones; only what surrounds it is simulated: the provider,
workers, clients. One seed, one run. Units: seconds since the start for everything that is shown (`t`), epoch seconds
inside.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from posthouse.domain.decision import Decision
from posthouse.domain.endpoint import Endpoint, EndpointId, EndpointState, Scaling
from posthouse.domain.lifecycle import Command
from posthouse.domain.offer import GroupOffer
from posthouse.domain.rollout import Rollout
from posthouse.domain.worker import Worker, WorkerId
from posthouse.fleet.controller import Controller, Policy
from posthouse.fleet.events import (
    Commit,
    Configured,
    Deliver,
    Effect,
    Event,
    Moved,
    Offered,
    Run,
    Ticked,
    WakeAt,
    Written,
)
from posthouse.policy.decide import decide
from posthouse.recording.log import TrafficLog
from posthouse.sim.audit import Auditor
from posthouse.sim.client import ClientBehaviour
from posthouse.sim.clients import FORGETFUL_S
from posthouse.sim.market import GROUP, Hardware
from posthouse.sim.provider import SimProvider
from posthouse.sim.timeline import START_AT as START_AT
from posthouse.sim.traffic import Arrival

STABILIZATION_S = 60.0
"""After a restart, and for what is there when the world begins: as `engine.stabilization_s`."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The periods of the control plane, in seconds. Defaults: those of the server's settings."""

    tick_s: float = 1.0
    list_s: float = 2.0
    """Between two looks at the provider's list."""
    answer_s: float = 0.2
    """How long a provider takes to answer a command, and a list. Nominal: a call over the internet."""
    hold_s: float = 2.0
    """How long a request without a worker is held open."""
    silent_s: float = 60.0
    """A worker without a report for this long is silent."""
    bell: bool = True
    """Whether what happens brings the next tick forward, as it does in the server."""


class World(SimProvider):
    """One endpoint, its traffic, its clients, its workers, and the market that they come from.

    It drives the controller: it tells it what happens, and does what it asks for.
    """

    def __init__(
        self,
        scaling: Scaling,
        traffic: Iterable[Arrival] = (),
        hardware: Sequence[Hardware] = (Hardware(),),
        seed: int = 0,
        policy: Policy = decide,
        behaviour: ClientBehaviour | None = None,
        pace: Pace | None = None,
        log: Callable[[str], object] | None = None,
        repeat: str = "",
        recorder: TrafficLog | None = None,
    ) -> None:
        """`log`: takes a line for everything that happens. `repeat`: the command that a broken rule is shown with.

        `recorder`: hears of the traffic.
        """
        self.pace, self.policy, self.recorder = pace or Pace(), policy, recorder
        times = self.pace.hold_s, self.pace.list_s, self.pace.answer_s
        super().__init__(traffic, behaviour or ClientBehaviour(), *times, hardware, seed, log)
        self.endpoint = Endpoint(EndpointId(1), "sim", scaling)
        self.rows: dict[WorkerId, Worker] = {}
        """What is written down of workers."""
        self.rollouts: tuple[Rollout, ...] = ()
        """And of updates."""
        self.given: dict[Command, int] = dict.fromkeys(Command, 0)
        self._wake_at: float | None = None
        self._effects: deque[Effect] = deque()
        self._at_work = False
        self._offers: tuple[GroupOffer, ...] = ()
        self.fleet = self._controller((), 0.0, frozenset())
        self.audit = Auditor(self.fleet, self.now, seed, repeat)
        self.audit.working = lambda label: self.instances[label].working if label in self.instances else ()
        self._perform()
        for first in (self._list, self._next_arrival):
            self.after(0.0, first)
        stock = [worker for kind in self.market.hardware for worker in self._stock(kind)]
        self._configured()
        if stock:
            self.rows = {worker.id: worker for worker in stock}
            self.fleet = self._controller(stock, STABILIZATION_S, frozenset())
            self.audit.adopt(self.fleet, self.now)
            self._configured()
        self._begin_market()

    def _controller(self, workers: Iterable[Worker], stabilization_s: float, known: frozenset[str]) -> Controller:
        """`known`: the providers that must be listed before anything is decided."""
        return Controller(
            self.endpoint,
            self.now,
            workers,
            stabilization_s,
            label=self.label,
            known=known,
            policy=self.policy,
            tick_s=self.pace.tick_s,
            silent_s=self.pace.silent_s,
            rings=self.pace.bell,
            traffic=self.recorder,
            rollouts=self.rollouts,
        )

    @property
    def decision(self) -> Decision | None:
        """The latest."""
        return self.fleet.decision

    # -- what others may want to hear ----------------------------------------------------------------------------------

    def on_tick(self) -> None:
        """Called after each decision."""

    def on_command(self, worker_id: WorkerId, command: Command) -> None:
        """Called for each command that is given."""

    # -- the driver of the controller ----------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Tells the controller what happened, and does what it asks for."""
        self._effects += self.fleet.handle(event, self.now)
        self._do_all()

    def _perform(self) -> None:
        self._effects += self.fleet.take_effects()
        self._do_all()

    def _do_all(self) -> None:
        if self._at_work:
            return  # the loop further up the stack does these, too, in their order
        self._at_work = True
        try:
            while self._effects:
                self._do(self._effects.popleft())
        finally:
            self._at_work = False

    def _do(self, effect: Effect) -> None:
        match effect:
            case Deliver(request_idx, outcome):
                self._deliver(request_idx, outcome)
            case WakeAt(at):
                self._wake_at = at
                self.after(max(0.0, at - self.now), self._wake, at)
            case Commit(rows, _, rollouts):
                self.rows.update({worker.id: worker for worker in rows})
                self.rollouts = rollouts or self.rollouts
                self.tell(Written(ok=True))
            case Moved(before, after, why):
                if self.recorder is not None:
                    self.recorder.moved(before, after, why, self.now)
                if isinstance(why, Command):
                    self._ordered(before, why)
            case Run(worker, command):
                self._in_flight += 1
                self.after(self.pace.answer_s, self._carry_out, self.fleet, worker, command)

    def _ordered(self, worker: Worker, command: Command) -> None:
        self.audit.ordered(worker, command, self.now)
        self.given[command] += 1
        self.happened(command, "worker", worker.id)
        self.on_command(worker.id, command)

    def _wake(self, planned_at: float) -> None:
        if planned_at != self._wake_at or self.down:
            return
        decision, offers = self.decision, self.market.offers()
        if offers != self._offers:
            self._offers = offers
            self.tell(Offered(offers))
        self.tell(Ticked(self._ids))
        if self.decision is not decision:
            self.audit.ticked()
            self.on_tick()

    # -- what an operator does -----------------------------------------------------------------------------------------

    def configure(self, state: EndpointState = EndpointState.ACTIVE, **scaling: float | None) -> None:
        """Changes the endpoint's parameters."""
        changed = replace(self.endpoint.scaling, **scaling)  # type: ignore[arg-type]
        self.endpoint = replace(self.endpoint, scaling=changed, state=state)
        self._configured()
        self.audit.disturb(self.now)

    def update(self, broken: bool = False, errors: float = 0.0, speed: float = 1.0) -> None:
        """The template changes, and its workers are to be updated. `broken`: the new version ends when it starts.

        `errors`: the share of its requests that fail. `speed`: how fast it is, as a share of what the machine can do.
        """
        self.version += 1
        self.broken |= {self.version} if broken else set()
        self.errors[self.version], self.speeds[self.version] = errors, speed
        self._configured()
        self.audit.disturb(self.now)

    def _configured(self, providers: frozenset[str] = frozenset()) -> None:
        self.tell(Configured(self.endpoint, providers, ((GROUP, str(self.version)),)))

    def restart(self, stabilization_s: float = STABILIZATION_S, away_s: float = 0.0) -> None:
        """The server dies and starts over from what was written down; answers on their way are lost."""
        self.down = True
        for client in self.held.values():
            self.after(FORGETFUL_S, self._ask, client)
        self.held.clear()

        def begin() -> None:
            self.down, self._listed_as = False, ()
            self.fleet = self._controller(self.rows.values(), stabilization_s, frozenset(self.providers))
            self.audit.adopt(self.fleet, self.now)
            self._offers = ()
            self._configured(frozenset(self.providers))

        self.after(away_s, begin)
