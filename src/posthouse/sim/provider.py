"""The provider of a world: what it makes, starts, stops and takes away, and what it lists."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice

from posthouse.domain.endpoint import Endpoint
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Command, Goal, Observation, State
from posthouse.domain.worker import Worker, WorkerId
from posthouse.fleet.controller import Controller
from posthouse.fleet.events import Answered, Listed
from posthouse.sim.client import ClientBehaviour
from posthouse.sim.instance import HEARTBEAT_S, SimInstance
from posthouse.sim.market import GROUP, Hardware, Market
from posthouse.sim.traffic import Arrival
from posthouse.sim.workers import Workers

SHOWN = (Command.RENT, Command.UPDATE)
"""Commands whose answer says how the instance stands."""


class SimProvider(Workers):
    """Where workers come from, with the faults that a scenario may switch."""

    endpoint: Endpoint
    label = "sim-"
    """What every label begins with."""

    def __init__(
        self,
        traffic: Iterable[Arrival],
        behaviour: ClientBehaviour,
        hold_s: float,
        list_s: float,
        answer_s: float,
        hardware: Sequence[Hardware],
        seed: int,
        log: Callable[[str], object] | None,
    ) -> None:
        """`list_s`: between two looks at its list. `answer_s`: how long it takes to answer a command, and a list."""
        super().__init__(traffic, behaviour, hold_s, seed, log)
        self.list_s, self.answer_s = list_s, answer_s
        self.market = Market(hardware, seed)
        self.away: set[str] = set()
        """Providers that do not answer."""
        self.cut: list[int] = []
        """Requests that a stop or a destruction cut off."""
        self.refuse_creation = ""
        self.refuse_update: Callable[[SimInstance], str] = lambda instance: ""
        self.version = 0
        """Of the template."""
        self.broken: set[int] = set()
        """Versions that end as soon as they start."""
        self.speeds: dict[int, float] = {}
        """How fast a version is, as a share of what the machine can do."""
        self.lose_answers = False
        self.late_s: Callable[[SimInstance], float] = lambda instance: 0.0
        """How much longer than usual the first load takes; infinite: it never ends."""
        self.shows_progress = False
        self._ids = (WorkerId(i) for i in count(1))
        self._listed_as: tuple[object, ...] = ()
        self._in_flight = 0
        self._settled_at = self.now

    def _begin_market(self) -> None:
        for kind in self.market.hardware:
            if kind.offered_h > 0:
                self.after(self._chance.expovariate(1 / kind.offered_h) * 3600, self._withdraw, kind)
            for at_s, times in kind.price_changes:
                self.after(at_s, self._reprice, kind, times)
            for from_s, to_s in kind.down:
                self.after(from_s, self._go_down, kind)
                self.after(to_s, self._come_back, kind)

    def _stock(self, kind: Hardware) -> Iterator[Worker]:
        """The workers of a type that are there when the world begins, made as they are taken."""
        rooms = (host for host in self.market.hosts(kind) for _ in range(kind.per_host))
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
                provider=kind.provider,
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

    def _list(self) -> None:
        self.after(self.list_s, self._list)
        if self._listed_as and self._listed_as == self._facts():
            return  # the same list, met by the same workers, has no effect
        asked_at, fleet = self.now, self.fleet
        if self.shows_progress:
            for instance in self.instances.values():
                instance.progress += not instance.ready
        found = [i.listed() for i in self.instances.values() if i.host.hardware.provider not in self.away]
        lists: dict[str, list[Instance]] = {name: [] for name in self.providers - self.away}
        for label, listed in ((i.label, i) for i in found):
            lists[self.instances[label].host.hardware.provider].append(listed)

        def answer() -> None:
            if fleet is not self.fleet or self.down:
                return
            self.audit.touch_all()
            before = self._facts()
            for name in sorted(lists):
                self.tell(Listed(name, tuple(lists[name]), asked_at))
            after = self._facts()
            fresh = all(b.seen is i.seen for b, i in zip(self.instances.values(), found, strict=False))
            every = len(self.instances) == len(found) == len(fleet.workers)
            met = self._in_flight == 0 and asked_at > self._settled_at
            same = before == after and fresh and every and met and not self.shows_progress
            self._listed_as = after if same else ()

        self.after(self.answer_s, answer)

    def _facts(self) -> tuple[object, ...]:
        """All that a provider's list is compared with, and what it would say."""
        workers = tuple([(w.id, w.state, w.instance_id) for w in self.fleet.workers.values()])
        return workers, tuple([(b.label, b.seen) for b in self.instances.values()])

    def _carry_out(self, fleet: Controller, worker: Worker, command: Command) -> None:
        instance, failure, blame = self.instances.get(worker.label), "", True
        self._in_flight -= 1
        self._settled_at = self.now
        if worker.provider in self.away:
            failure, blame = "the provider does not answer", False
        elif command is Command.RENT:
            failure, blame = self._rent(worker)
            instance = self.instances.get(worker.label)
        elif instance is not None and command is Command.START:
            failure = self._start(instance)
        elif instance is not None and command is Command.UPDATE:
            failure = self._update(instance, int(worker.build))
        elif instance is not None:
            self.cut.extend(instance.working)
            self.audit.cut_off(instance.worker_id, len(instance.working))
            self.kill(instance, Observation.HALTED, ordered=True)
            if command is Command.DESTROY:
                self._vanish(instance)
        if fleet is not self.fleet or self.down:
            return  # nobody is there any more to hear the answer
        self.audit.touch(worker.id)
        if failure:
            self.audit.disturb(self.now)
            self.happened(command, "refused for worker", worker.id)
        answered = instance is not None and not failure and not self.lose_answers
        seen = instance.listed() if instance is not None and answered and command in SHOWN else None
        why = "" if self.lose_answers else failure
        self.tell(Answered(worker.id, command, why, blame and command is Command.RENT, seen))

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
        instance = self.instances[worker.label] = SimInstance(worker.id, worker.label, host, 0.0)
        ends = self._run(instance, int(worker.build))
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

    def _run(self, instance: SimInstance, version: int) -> bool:
        """Has an instance run a version of the template; whether that ends as soon as it starts."""
        instance.version = version
        instance.perf = instance.host.hardware.perf / instance.host.factor * self.speeds.get(version, 1.0)
        return version in self.broken

    def _update(self, instance: SimInstance, version: int) -> str:
        if failure := self.refuse_update(instance):
            return failure
        self.cut.extend(instance.working)
        self.audit.cut_off(instance.worker_id, len(instance.working))
        ends = self._run(instance, version)
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

    @property
    def providers(self) -> set[str]:
        """Who offers something."""
        return {kind.provider for kind in self.market.hardware}

    def _reprice(self, kind: Hardware, times: float) -> None:
        self.market.set_price(kind, times)
        self._listed_as = ()
        self.happened(kind.provider, kind.gpu, "costs", times, "times as much as at first")

    def _go_down(self, kind: Hardware) -> None:
        """A provider answers no more, and what runs there is gone."""
        self.away.add(kind.provider)
        self.happened(kind.provider, "is down")
        self._take_back(kind)

    def _come_back(self, kind: Hardware) -> None:
        self.away.discard(kind.provider)
        self.market.set_available(kind, offered=True)
        self._listed_as = ()
        self.happened(kind.provider, "is back")

    def _withdraw(self, kind: Hardware) -> None:
        """A type goes from the market, with what runs of it, and comes back later."""
        self.happened(kind.gpu, "is not offered any more")
        self._take_back(kind)
        self.after(self._chance.expovariate(1 / kind.away_h) * 3600 if kind.away_h > 0 else 0.0, self._restore, kind)

    def _take_back(self, kind: Hardware) -> None:
        self.market.set_available(kind, offered=False)
        for instance in list(self.instances.values()):
            if instance.host.hardware is kind and instance.seen is not Observation.HALTED:
                self.kill(instance, Observation.EXITED)
                self._vanish(instance)

    def _restore(self, kind: Hardware) -> None:
        self.market.set_available(kind, offered=True)
        self.happened(kind.gpu, "is offered again")
        self.after(self._chance.expovariate(1 / kind.offered_h) * 3600, self._withdraw, kind)

    def _vanish(self, instance: SimInstance) -> None:
        del self.instances[instance.label]
        self.market.give_back(instance.host.name)
