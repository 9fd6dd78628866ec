"""A world in virtual time around the fleet that the server runs.

The fleet, its decisions and its routing are the shipped ones; only who tells and who obeys is simulated: the control
loop's pace, the provider, workers, clients. One seed, one run. Units: seconds since the start for everything that is
shown (`t`), epoch seconds inside.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count, islice
from random import Random
from typing import Any, Self

from posthouse.domain.endpoint import Endpoint, EndpointId, EndpointState, Scaling
from posthouse.domain.lifecycle import Command, Goal, Observation, State
from posthouse.domain.load import Ended
from posthouse.domain.plan import Action, Decision, Memory, Snapshot
from posthouse.domain.worker import Worker, WorkerId
from posthouse.fleet.fleet import Assignment, Fleet
from posthouse.policy.decide import decide
from posthouse.sim.audit import Auditor
from posthouse.sim.client import RECONNECT_S, Client, ClientBehaviour, ClientKind
from posthouse.sim.instance import HEARTBEAT_S, REPORT_S, SimInstance
from posthouse.sim.market import GROUP, PROVIDER, Hardware, Market
from posthouse.sim.traffic import Arrival

Policy = Callable[[Snapshot, Memory], Decision]
"""What decides. `posthouse.policy.decide.decide` is the shipped one."""

START_AT = 1_700_000_000.0
"""When the world begins, as an epoch."""
STABILIZATION_S = 60.0
"""After a restart, and for what is there when the world begins: as `engine.stabilization_s`."""
MIN_GAP_S = 0.05
"""Shortest time between two ticks, however often the bell rings. Source: `engine.loop`."""
FORGETFUL_S = 1.0
"""How soon a client asks again whose server was away."""


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


class World:
    """One endpoint, its traffic, its clients, its workers, and the market that they come from."""

    label = "sim-"
    """What every label begins with."""

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
    ) -> None:
        """`log`: takes a line for everything that happens. `repeat`: the command that a broken rule is shown with."""
        self.now = START_AT
        self.pace, self.behaviour, self.policy = pace or Pace(), behaviour or ClientBehaviour(), policy
        self.endpoint = Endpoint(EndpointId(1), "sim", scaling)
        self.fleet = Fleet(self.endpoint, self.now)
        self.memory = Memory()
        self.decision: Decision | None = None
        self.market = Market(hardware, seed)
        self.instances: dict[str, SimInstance] = {}
        self.held: dict[int, Client] = {}
        """Those whose request is held open, by its index."""
        self.pending = 0
        """Requests that are neither answered nor given up."""
        self.rows: dict[WorkerId, Worker] = {}
        self.cut: list[int] = []
        """Requests that a stop or a destruction cut off."""
        self.given: dict[Command, int] = dict.fromkeys(Command, 0)
        self.listed, self.down = True, False
        self.audit = Auditor(self.fleet, self.now, seed, repeat)
        self.audit.working = lambda label: self.instances[label].working if label in self.instances else ()
        # Faults that a scenario may switch.
        self.refuse_creation = ""
        self.refuse_update: Callable[[SimInstance], str] = lambda instance: ""
        self.version = 0
        """Of the template: what is made or updated from now on runs it."""
        self.broken: set[int] = set()
        """Versions that end as soon as they start."""
        self.lose_answers = False
        self.lose_ends = False
        self.late_s: Callable[[SimInstance], float] = lambda instance: 0.0
        """How much longer than usual the first load takes; infinite: it never ends."""
        self.shows_progress = False
        self.speed = 1.0
        """How fast workers really are, as a share of what they say."""
        self._random = Random(f"{seed}/clients")
        self._chance = Random(f"{seed}/market")
        self._ids = (WorkerId(i) for i in count(1))
        self._events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = count()
        self._traffic = iter(traffic)
        self.expects_more = True
        """Whether the traffic goes on."""
        self._listed_as: tuple[object, ...] = ()
        self._in_flight = 0
        self._settled_at = self.now
        self._log = log
        self._tick_at = self._ticked_at = -math.inf
        for first in (self._plan_tick, self._list, self._next_arrival):
            self.after(0.0, first)
        stock = [worker for kind in self.market.hardware for worker in self._stock(kind)]
        if stock:
            self.rows = {worker.id: worker for worker in stock}
            self.fleet = Fleet(self.endpoint, self.now, stock, STABILIZATION_S)
            self.audit.adopt(self.fleet, self.now)
        for kind in self.market.hardware:
            if kind.offered_h > 0:
                self.after(self._chance.expovariate(1 / kind.offered_h) * 3600, self._withdraw, kind)

    def _stock(self, kind: Hardware) -> Iterator[Worker]:
        """The workers of a type that are there when the world begins, made as they are taken."""
        rooms = (host for host in self.market.hosts(kind.gpu) for _ in range(kind.per_host))
        for number, host in enumerate(islice(rooms, kind.ready + kind.stopped)):
            if not self.market.take(host.name):
                return
            ready, worker_id = number < kind.ready, next(self._ids)
            instance = SimInstance(
                worker_id, f"{self.label}{worker_id}", host, kind.perf / host.factor, began_at=self.now
            )
            self.instances[instance.label] = instance
            self.audit.made(instance.label)
            instance.seen = Observation.RUNNING if ready else Observation.HALTED
            if ready:
                self._plan_heartbeat(instance, self.now + HEARTBEAT_S)
                self._become_ready(instance, instance.life)
            yield Worker(
                id=worker_id,
                endpoint_id=self.endpoint.id,
                group_id=GROUP,
                label=instance.label,
                provider=PROVIDER,
                offer_id=host.name,
                machine=host.name,
                gpu_name=kind.gpu,
                num_gpus=1,
                price=kind.price,
                created_at=self.now,
                state=State.IDLE if ready else State.STOPPED,
                goal=Goal.HOT if ready else Goal.COLD,
                since=self.now,
                progressed_at=self.now,
                instance_id=instance.label,
                addresses=frozenset({instance.address}),
                url=instance.report().url,
                version=instance.report().version,
                scheme=instance.report().scheme,
                perf=instance.perf,
                loaded_at=self.now,
            )

    # -- time ------------------------------------------------------------------------------------------------------

    @property
    def t(self) -> float:
        return self.now - START_AT

    def after(self, span_s: float, do: Callable[..., object], *args: Any) -> None:
        """Has `do` happen `span_s` from now; never if that is infinite."""
        if span_s < math.inf:
            heappush(self._events, (self.now + span_s, next(self._order), do, args))

    def run(self, until_t: float) -> Self:
        """Lets time pass up to and with `until_t`. Raises: BrokenRule as soon as one is."""
        events, until_at, check = self._events, START_AT + until_t, self.audit.check
        while events and events[0][0] <= until_at:
            self.now, _, do, args = heappop(events)
            do(*args)
            check(self.now)
        self.now = until_at
        return self

    def happened(self, *words: object) -> None:
        """Notes a line in the log."""
        if self._log is not None:
            self._log(" ".join((f"{self.t:.3f}", *map(str, words))))

    # -- what others may want to hear ----------------------------------------------------------------------------------

    def on_tick(self) -> None:
        """Called after each tick."""

    def on_command(self, action: Action) -> None:
        """Called for each command that is given."""

    def on_request(self, client: Client) -> None:
        """Called for each new request, before it is asked."""

    def on_end(self, client: Client) -> None:
        """Called when a request has been answered or given up."""

    # -- the control plane: what the engine does ---------------------------------------------------------------------

    def _plan_tick(self, span_s: float = 0.0) -> None:
        self._tick_at = self.now + span_s
        self.after(span_s, self._tick, self._tick_at)

    def _ring(self) -> None:
        """Brings the next tick forward."""
        if self.pace.bell:
            due_at = max(self.now, self._ticked_at + MIN_GAP_S)
            if due_at < self._tick_at:
                self._plan_tick(due_at - self.now)

    def _tick(self, planned_at: float) -> None:
        if planned_at != self._tick_at:
            return  # the bell has brought it forward
        self._ticked_at = self.now
        self._plan_tick(self.pace.tick_s)
        if self.down:
            return
        fleet, audit, now = self.fleet, self.audit, self.now
        audit.ticked()
        fleet.advance(now, self.pace.silent_s)
        if self.listed:
            self.decision = decision = self.policy(fleet.snapshot(now, self.market.offers()), self.memory)
            self.memory = decision.memory
            actions = fleet.tick(decision, now, self._ids, self.label)
            for worker in fleet.take_changes():
                self.rows[worker.id] = worker
            for action in actions:
                audit.ordered(action, now)
                fleet.command_sent(action, now)
                self._in_flight += 1
                self.given[action.command] += 1
                self.happened(action.command, "worker", action.worker_id)
                self.on_command(action)
                self.after(self.pace.answer_s, self._carry_out, fleet, self.rows[action.worker_id], action.command)
            self._deliver()
        self.on_tick()

    def configure(self, state: EndpointState = EndpointState.ACTIVE, **scaling: float | None) -> None:
        """Changes the endpoint's parameters."""
        changed = replace(self.endpoint.scaling, **scaling)  # type: ignore[arg-type]
        self.endpoint = replace(self.endpoint, scaling=changed, state=state)
        self.fleet.configure(self.endpoint)
        self.audit.disturb(self.now)

    def update(self, broken: bool = False) -> None:
        """The template changes, and its workers are to be updated. `broken`: the new version ends when it starts."""
        self.version += 1
        self.broken |= {self.version} if broken else set()
        self.fleet.ask_update(GROUP, self.now)
        self.audit.disturb(self.now)

    def restart(self, stabilization_s: float = STABILIZATION_S, away_s: float = 0.0) -> None:
        """The server dies and begins anew from what was written down; answers on their way are lost."""
        self.down, self.listed, self.memory, self.decision = True, False, Memory(), None
        for client in self.held.values():
            self.after(FORGETFUL_S, self._ask, client)
        self.held.clear()

        def begin() -> None:
            self.down, self.fleet = False, Fleet(self.endpoint, self.now, self.rows.values(), stabilization_s)
            self._listed_as = ()
            self.audit.adopt(self.fleet, self.now)

        self.after(away_s, begin)

    # -- the provider ------------------------------------------------------------------------------------------------

    def _list(self) -> None:
        self.after(self.pace.list_s, self._list)
        if self._listed_as and self._listed_as == self._facts():
            return  # the same list, met by the same workers, has no effect
        asked_at, fleet = self.now, self.fleet
        if self.shows_progress:
            for instance in self.instances.values():
                instance.progress += not instance.ready
        found = [instance.listed() for instance in self.instances.values()]

        def answer() -> None:
            if fleet is not self.fleet or self.down:
                return
            self.audit.touch_all()
            before = self._facts()
            fleet.observe(PROVIDER, found, asked_at, self.now)
            self.listed = True
            after = self._facts()
            if before != after:
                self._ring()
            fresh = all(b.seen is i.seen for b, i in zip(self.instances.values(), found, strict=False))
            every = len(self.instances) == len(found) == len(fleet.workers)
            met = self._in_flight == 0 and asked_at > self._settled_at
            same = before == after and fresh and every and met and not self.shows_progress
            self._listed_as = after if same else ()

        self.after(self.pace.answer_s, answer)

    def _facts(self) -> tuple[object, ...]:
        """All that a provider's list is compared with, and what it would say."""
        workers = tuple([(w.id, w.state, w.instance_id) for w in self.fleet.workers.values()])
        return workers, tuple([(b.label, b.seen) for b in self.instances.values()])

    def _carry_out(self, fleet: Fleet, worker: Worker, command: Command) -> None:
        instance, failure, blame = self.instances.get(worker.label), "", True
        self._in_flight -= 1
        self._settled_at = self.now
        if command is Command.RENT:
            failure, blame = self._rent(worker)
            instance = self.instances.get(worker.label)
        elif instance is not None and command is Command.START:
            failure = self._start(instance)
        elif instance is not None and command is Command.UPDATE:
            failure = self._update(instance)
        elif instance is not None:
            self.cut.extend(instance.working)
            self.audit.cut_off(instance.worker_id, len(instance.working))
            self.kill(instance, Observation.HALTED, ordered=True)
            if command is Command.DESTROY:
                self._vanish(instance)
        if fleet is not self.fleet or self.down:
            return  # nobody is there any more to hear the answer
        self.audit.touch(worker.id)
        fleet.command_answered(
            worker.id, self.now, "" if self.lose_answers else failure, blame and command is Command.RENT
        )
        if failure:
            self.audit.disturb(self.now)
            self.happened(command, "refused for worker", worker.id)
        if command in (Command.RENT, Command.UPDATE) and instance is not None and not failure and not self.lose_answers:
            if command is Command.UPDATE:
                fleet.updated(worker.id)
            fleet.observe_instance(worker.id, instance.listed(), self.now)
        self._ring()

    def _rent(self, worker: Worker) -> tuple[str, bool]:
        """Makes the worker's instance. Returns why not, and whether somebody is to blame."""
        if self.refuse_creation:
            return self.refuse_creation, True
        host = self.market.host(worker.machine)
        kind, chance = host.hardware, self._chance
        create_s, load_s = kind.create.draw(chance) * host.factor, kind.load.draw(chance) * host.factor
        if kind.refused and chance.random() < kind.refused:
            return "the provider refused", True
        if not self.market.take(worker.machine):
            return "the offer was taken", False
        self.audit.made(worker.label)
        instance = self.instances[worker.label] = SimInstance(
            worker.id, worker.label, host, kind.perf / host.factor, self.version
        )
        ends = self.version in self.broken
        self.after(create_s / 2, self._show, instance, Observation.PULLING)
        self.after(create_s, self._show, instance, Observation.EXITED if ends else Observation.RUNNING)
        late_s = math.inf if host.broken or ends else self.late_s(instance)
        self.after(create_s + load_s + late_s, self._become_ready, instance, instance.life)
        if kind.preempted_h > 0:
            self.after(chance.expovariate(kind.preempted_h / 3600), self.preempt, instance)
        return "", False

    def _start(self, instance: SimInstance) -> str:
        kind, chance = instance.host.hardware, self._chance
        start_s = kind.start.draw(chance) * instance.host.factor
        if kind.refused and chance.random() < kind.refused:
            return "the provider refused"
        instance.life += 1
        instance.seen = Observation.RUNNING
        self.after(start_s, self._become_ready, instance, instance.life)
        return ""

    def _update(self, instance: SimInstance) -> str:
        if failure := self.refuse_update(instance):
            return failure
        self.cut.extend(instance.working)
        self.audit.cut_off(instance.worker_id, len(instance.working))
        instance.version = self.version
        ends = instance.version in self.broken
        self.kill(instance, Observation.EXITED if ends else Observation.RUNNING)
        if not ends:
            self.after(
                instance.host.hardware.load.draw(self._chance) * instance.host.factor,
                self._become_ready,
                instance,
                instance.life,
            )
        return ""

    def _show(self, instance: SimInstance, seen: Observation) -> None:
        if instance.life == 0 and instance.label in self.instances:
            instance.seen = seen
            if seen is Observation.RUNNING:
                instance.began_at = self.now
                self._plan_heartbeat(instance, self.now)

    def _become_ready(self, instance: SimInstance, life: int) -> None:
        if instance.life != life:
            return
        instance.ready, instance.changed = True, True
        if life:
            instance.began_at = self.now
            self._plan_heartbeat(instance, self.now)
        else:
            self.tell_soon(instance)
        if instance.host.hardware.crashes_h > 0:
            span_s = self._chance.expovariate(instance.host.hardware.crashes_h / 3600)
            self.after(span_s, self._crash, instance, instance.life)

    def _crash(self, instance: SimInstance, life: int) -> None:
        if instance.life == life:
            self.happened("worker", instance.worker_id, "dies")
            self.kill(instance, Observation.EXITED)

    def preempt(self, instance: SimInstance) -> None:
        """Takes an instance away; one that is stopped stays."""
        if self.instances.get(instance.label) is not instance:
            return
        if instance.seen is Observation.HALTED:
            span_s = self._chance.expovariate(instance.host.hardware.preempted_h / 3600)
            self.after(span_s, self.preempt, instance)
            return
        self.happened("worker", instance.worker_id, "is taken away")
        self.kill(instance, Observation.EXITED)
        self._vanish(instance)

    def _withdraw(self, kind: Hardware) -> None:
        """A type goes from the market, with what runs of it, and comes back later."""
        self.market.set_offered(kind.gpu, offered=False)
        self.happened(kind.gpu, "is not offered any more")
        for instance in list(self.instances.values()):
            if instance.host.hardware is kind and instance.seen is not Observation.HALTED:
                self.kill(instance, Observation.EXITED)
                self._vanish(instance)
        self.after(self._chance.expovariate(1 / kind.away_h) * 3600 if kind.away_h > 0 else 0.0, self._restore, kind)

    def _restore(self, kind: Hardware) -> None:
        self.market.set_offered(kind.gpu, offered=True)
        self.happened(kind.gpu, "is offered again")
        self.after(self._chance.expovariate(1 / kind.offered_h) * 3600, self._withdraw, kind)

    def _vanish(self, instance: SimInstance) -> None:
        del self.instances[instance.label]
        self.market.give_back(instance.host.name)

    # -- workers -----------------------------------------------------------------------------------------------------

    def kill(self, instance: SimInstance, seen: Observation, ordered: bool = False) -> None:
        """Ends what runs in the instance, at once; its clients notice. `ordered`: by a command, so it is no fault."""
        instance.life += 1
        instance.seen, instance.ready, instance.served = seen, False, 0
        instance.queue.clear()
        instance.ended.clear()
        clients, instance.working = list(instance.working.values()), {}
        if not ordered:
            self.audit.disturb(self.now)
        for client in clients:
            self.after(RECONNECT_S, self._ask, client)

    def _plan_heartbeat(self, instance: SimInstance, at: float) -> None:
        instance.heartbeat_at = at
        self.after(at - self.now, self._heartbeat, instance, instance.life, at)

    def tell_soon(self, instance: SimInstance) -> None:
        """Has a worker report with its next beat, because something has changed."""
        instance.changed = True
        at = instance.next_beat_at(self.now)
        if at < instance.heartbeat_at:
            self._plan_heartbeat(instance, at)

    def _heartbeat(self, instance: SimInstance, life: int, planned_at: float) -> None:
        if instance.life != life or instance.heartbeat_at != planned_at:
            return
        if self.down or instance.worker_id not in self.fleet.workers:
            self._plan_heartbeat(instance, self.now + HEARTBEAT_S)
            return
        fleet = self.fleet
        self.audit.touch(instance.worker_id)
        if not self.lose_ends:
            fleet.ended(instance.worker_id, instance.ended, self.now)
            for ended in instance.ended:
                self.audit.ended(instance.worker_id, ended.request_idx)
        instance.ended.clear()
        if instance.changed or self.now - instance.reported_at >= REPORT_S - HEARTBEAT_S / 2:
            instance.changed, instance.reported_at = False, self.now
            before = fleet.workers[instance.worker_id].state
            fleet.report(instance.worker_id, instance.report(), self.now)
            worker = fleet.workers.get(instance.worker_id)
            if worker is None or worker.state is not before:
                self._ring()
        self._plan_heartbeat(instance, instance.reported_at + REPORT_S)
        self._deliver()

    def _send(self, client: Client, to: Assignment) -> None:
        client.idx, client.assigned_at = to.request_idx, self.now
        client.workers.append(to.worker.id)
        instance = self.instances.get(to.worker.label)
        if instance is None or not instance.ready or instance.deaf or client.broken:  # connection refused
            self.after(RECONNECT_S, self._ask, client)
            return
        instance.working[client.idx] = client
        self.tell_soon(instance)
        if instance.served < instance.host.hardware.slots:
            self._serve(instance, client)
        else:
            instance.queue.append(client)

    def _serve(self, instance: SimInstance, client: Client) -> None:
        kind = instance.host.hardware
        instance.served += 1
        client.began_at = self.now
        span_s = kind.overhead_s * instance.host.factor + client.cost * kind.slots / (instance.perf * self.speed)
        self.after(span_s, self._finish, instance, instance.life, client)

    def _finish(self, instance: SimInstance, life: int, client: Client) -> None:
        if instance.life != life or client.gone:
            return
        client.answered_at = self.now
        self.happened("request", client.idx, "is answered")
        self._leave(instance, client, success=True)
        self._close(client)

    def _leave(self, instance: SimInstance, client: Client, success: bool) -> None:
        """A request ends at a worker, in its slot or in its queue."""
        del instance.working[client.idx]
        instance.ended.append(Ended(client.idx, success))
        self.tell_soon(instance)
        if client in instance.queue:
            instance.queue.remove(client)
            return
        instance.served -= 1
        if instance.queue:
            self._serve(instance, instance.queue.popleft())

    # -- clients -----------------------------------------------------------------------------------------------------

    def request(self, cost: float, broken: bool = False) -> Client:
        """A new request, asked now. `broken`: its client reaches no worker."""
        client = Client(cost, self.now, broken)
        self.pending += 1
        self.on_request(client)
        if self.behaviour.timeout_s > 0 and self.behaviour.kind is ClientKind.POLLING:
            self.after(self.behaviour.timeout_s, self._lose_patience, client)
        self._ask(client)
        return client

    def _next_arrival(self) -> None:
        arrival = next(self._traffic, None)
        self.expects_more = arrival is not None
        if arrival is not None:
            self.after(START_AT + arrival[0] - self.now, self._arrive, arrival[1])

    def _arrive(self, cost: float) -> None:
        self._next_arrival()
        self.request(cost)

    def _ask(self, client: Client) -> None:
        if client.gone:
            return
        if self.down:
            self.after(FORGETFUL_S, self._ask, client)
            return
        fleet = self.fleet
        polls = self.behaviour.kind is ClientKind.POLLING
        outcome = fleet.assign(client.idx, client.cost, self.now, polls, self.pace.hold_s)
        self._deliver()
        self.audit.asked(client.idx, client.cost, outcome, self.now)
        if isinstance(outcome, Assignment):
            self.happened("request", outcome.request_idx, "goes to worker", outcome.worker.id)
            self._send(client, outcome)
            return
        self.happened("request", outcome.request_idx, "waits")
        client.idx = outcome.request_idx
        self._ring()
        if outcome.held:
            self.held[client.idx] = client
            self.after(self.pace.hold_s, self._let_go)
        else:
            self._answered_without_worker(client)

    def _let_go(self) -> None:
        self.fleet.let_go(self.now)
        self._deliver()

    def _deliver(self) -> None:
        """Tells clients what has become of the requests that were held open."""
        for idx, outcome in self.fleet.take_delivered():
            client = self.held.pop(idx, None)
            if client is None:
                continue
            if isinstance(outcome, Assignment):
                self.audit.asked(idx, client.cost, outcome, self.now)
                self.happened("request", idx, "goes to worker", outcome.worker.id)
                self._send(client, outcome)
            else:
                self._answered_without_worker(client)

    def _answered_without_worker(self, client: Client) -> None:
        if self.behaviour.kind is ClientKind.POLLING:
            self.after(client.poll_s(self.behaviour, self._random), self._ask, client)
            return
        client.idx = 0  # to ask anew is another request
        client.tries += 1
        if client.tries > self.behaviour.retries:
            self._give_up(client)
        else:
            self.after(self.behaviour.retry_s, self._ask, client)

    def _lose_patience(self, client: Client) -> None:
        if client.answered_at or client.gone:
            return
        if self.held.pop(client.idx, None) is not None and not self.down:
            self.fleet.forget(client.idx)  # the server sees the connection close
            self.audit.forgotten(client.idx)
        instance = next((b for b in self.instances.values() if client.idx in b.working), None)
        client.gone = True
        if instance is not None:
            self._leave(instance, client, success=False)
        self._give_up(client)

    def _give_up(self, client: Client) -> None:
        client.gone = True
        self.happened("request", client.idx, "is given up")
        self._close(client)

    def _close(self, client: Client) -> None:
        self.pending -= 1
        self.on_end(client)
