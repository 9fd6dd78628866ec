"""A faulty world in virtual time, from a seed: machines, a provider, clients, an operator, and what goes wrong."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation
from posthouse.domain.offer import ALL_CAPABILITIES, Offer, Price
from posthouse.domain.reports import Ended, Report
from posthouse.errors import Busy, NotFound, OfferTaken, Refused
from posthouse.ports import InstanceSpec
from tests.campaign.virtual import VirtualLoop

REPORT_S = 10.0
"""How often a worker reports: the protocol's."""
PARALLEL = 4
"""Requests that a worker serves at one time without slowing down."""
OFFERS = (
    Offer("small", "world", "host-a", Price(0.4, 0.4, 0.02), "G1", 1, available=64),
    Offer("large", "world", "host-b", Price(1.0, 0.8, 0.05), "G2", 1, available=64),
    Offer("other", "world", "host-c", Price(0.5, 0.5, 0.03), "G1", 1, available=64),
)
PERF = {"small": 50.0, "large": 120.0, "other": 50.0}
"""Work per second of a machine."""

RATES: dict[str, float] = {
    # How often each fault strikes where it may, at most. A seed draws a share of it for each, or none.
    "answer lost": 0.15,
    "answer slow": 0.15,
    "call failed": 0.15,
    "call refused": 0.08,
    "call busy": 0.15,
    "offer taken": 0.2,
    "call not done": 0.15,
    "made twice": 0.08,
    "list lags": 0.1,
    "list misses one": 0.1,
    "list repeats one": 0.2,
    "list fails": 0.2,
    "list hangs": 0.05,
    "report lost": 0.3,
    "report late": 0.2,
    "report repeated": 0.2,
    "end lost": 0.3,
    "end late": 0.3,
    "end repeated": 0.3,
    "load stuck": 0.1,
    "store slow": 0.03,
    "store fails": 0.05,
    # Per hour and machine:
    "machine dies": 0.5,
    "machine preempted": 0.5,
    "machine vanishes": 0.3,
    "server restarts": 0.5,
    "error reported": 0.4,
    "worker silent": 0.5,
}


@dataclass(slots=True)
class SimInstance:
    """A machine that is billed from its creation to its end."""

    id: str
    label: str
    worker_id: int
    spec: InstanceSpec
    offer: Offer
    perf: float
    state: Observation = Observation.PROVISIONING
    gone: bool = False
    serves: bool = False
    failed: bool = False
    silent: bool = False
    epoch: int = 0
    """Raised by all that ends what was begun before."""
    working: dict[int, "asyncio.Future[bool]"] = field(default_factory=dict)
    known: dict[int, float] = field(default_factory=dict)
    """Requests that the present server knows to be here: until when it has to believe in them unseen."""
    heard: bool = False
    """The present server has had a report of it."""

    @property
    def url(self) -> str:
        return f"http://10.0.{self.worker_id >> 8}.{self.worker_id & 255}:3000"

    def usd_h(self) -> float:
        if self.gone:
            return 0.0
        if self.state is Observation.HALTED:
            return self.offer.price.stopped_usd_h
        loading = self.state in (Observation.PROVISIONING, Observation.PULLING) or not self.serves
        return self.offer.price.loading_usd_h if loading else self.offer.price.ready_usd_h


class World:
    """Truth: what exists, and what is wrong with it at present."""

    name = "world"
    capabilities = ALL_CAPABILITIES

    def __init__(self, seed: int, loop: VirtualLoop) -> None:
        self.random = Random(seed)
        self.loop = loop
        self.stormy = False
        self.counts: Counter[str] = Counter()
        self.rates = {
            kind: most * self.random.random() if self.random.random() < 0.5 else 0.0 for kind, most in RATES.items()
        }
        self.wall_s = 1.7e9
        """How far the machine's clock is ahead of the virtual time."""
        self.all_instances: dict[str, SimInstance] = {}
        self.poll_s = self.catalog_s = self.random.choice([30.0, 60.0])
        self.boot_s = self.random.choice([5.0, 20.0, 60.0])
        self.tell: Callable[[SimInstance, Report | Ended], None] = lambda instance, message: None
        """Hands a message of a worker to the server, if one is there."""
        self.written: Callable[[str], bool] = lambda label: True
        """Whether the store has a worker with a label."""
        self.lists_nothing: Callable[[], bool] = lambda: False
        """Whether the provider has an empty list for whoever asks now."""
        self.broken: Callable[[str, str], None] = lambda rule, said: None
        self.thorough = False
        """Each request is signed by itself, and whoever asks for offers waits for them."""
        self.commands = 0
        self._made = 0
        self._asked: set[str] = set()
        self._forgot = False
        self._lists: list[list[Instance]] = []

    def hit(self, kind: str) -> bool:
        """True if that fault strikes now."""
        if not self.stormy or not self.rates[kind] or self.random.random() >= self.rates[kind]:
            return False
        self.counts[kind] += 1
        return True

    # -- the provider ------------------------------------------------------------------------------------------------

    async def catalog(self) -> Sequence[Offer]:
        if self.hit("list fails"):
            raise OSError("no route to host")
        if self.thorough:
            await asyncio.sleep(0.1)
        return OFFERS

    async def instances(self) -> Sequence[Instance]:
        if self.hit("list hangs"):
            await asyncio.sleep(1e6)
        if self.hit("list fails"):
            raise OSError("connection reset")
        listed = [_listed(b) for b in self.all_instances.values()]
        self._lists = [*self._lists[-3:], listed]
        if self.stormy and self.lists_nothing():
            self.counts["list empty"] += 1
            return []
        if self.hit("list lags"):
            listed = list(self._lists[0])
        if listed and self.hit("list misses one"):
            listed = [i for i in listed if i is not self.random.choice(listed)]
        if listed and self.hit("list repeats one"):
            listed = [*listed, self.random.choice(listed)]
        await asyncio.sleep(0.1)
        return listed

    async def create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        if spec.label in self._asked:
            self.broken("no double rent", f"{spec.label} was asked for before, and may exist")
        if not self.written(spec.label):
            self.broken("intent before effect", f"{spec.label} is asked for, and the store does not know it")
        if self._forgot and (there := next((i for i in self.all_instances.values() if i.label == spec.label), None)):
            return _listed(there)  # as every provider does
        if self.hit("offer taken"):
            raise OfferTaken("somebody was sooner")
        made: list[SimInstance] = []

        def make() -> None:
            made.append(self._make(offer_id, spec))
            if self.hit("made twice"):
                self._make(offer_id, spec)

        self._asked.add(spec.label)
        try:
            await self._call(make, may_lie=False)
        except (Busy, Refused):
            self._asked.discard(spec.label)
            raise
        return _listed(made[0])

    async def start(self, instance_id: str) -> None:
        await self._call(lambda: self._start(self._box(instance_id)))

    async def stop(self, instance_id: str) -> None:
        await self._call(lambda: self._halt(self._box(instance_id)))

    async def update(self, instance_id: str, spec: InstanceSpec) -> Instance:
        instance = self.all_instances.get(instance_id)
        if instance is None:
            raise NotFound(f"no instance {instance_id}")

        def renew() -> None:
            self._end(instance, instance.state)
            instance.spec = spec
            self._start(instance)

        await self._call(renew, may_lie=False)
        return _listed(instance)

    async def destroy(self, instance_id: str) -> None:
        await self._call(lambda: self._vanish(self.all_instances.get(instance_id)))

    async def logs(self, instance_id: str, tail: int) -> str:
        return ""

    def troubles(self) -> list[str]:
        return []

    async def close(self) -> None:
        return None

    async def _call(self, effect: Callable[[], None], may_lie: bool = True) -> None:
        """A call that changes something; what is asked may take effect though nobody hears of it any more."""
        self.commands += 1
        if self.hit("call busy"):
            raise Busy("too many calls", self.random.uniform(1.0, 30.0))
        if self.hit("call refused"):
            raise Refused("no credit")
        if self.hit("call failed"):
            await asyncio.sleep(1.0)
            raise OSError("internal error")
        if may_lie and self.hit("call not done"):
            return
        latency_s = self.random.uniform(0.2, 2.0)
        if self.hit("answer slow"):
            latency_s = self.random.uniform(5.0, 100.0)
        lost = self.hit("answer lost")
        failed: list[Exception] = []
        answered = self.loop.create_future()

        def happen() -> None:
            try:
                effect()
            except Exception as error:
                failed.append(error)
            if not answered.done() and not lost:
                answered.set_result(None)

        self.loop.call_later(latency_s / 2, happen)
        await answered
        if failed:
            raise failed[0]
        await asyncio.sleep(latency_s / 2)

    def forget_asked(self) -> None:
        """The store knows no more what was asked for, so ids may be given again where an empty list hides them."""
        self._asked, self._forgot = set(), True

    def _box(self, instance_id: str) -> SimInstance:
        if instance_id not in self.all_instances:
            raise NotFound(f"no instance {instance_id}")
        return self.all_instances[instance_id]

    # -- machines ----------------------------------------------------------------------------------------------------

    def _make(self, offer_id: str, spec: InstanceSpec) -> SimInstance:
        self._made += 1
        offer = next(o for o in OFFERS if o.id == offer_id)
        perf = PERF[offer_id] * self.random.uniform(0.8, 1.2)
        instance = SimInstance(f"i{self._made}", spec.label, spec.worker_id, spec, offer, perf)
        self.all_instances[instance.id] = instance
        self._later(
            instance, self.random.uniform(1.0, 2.0 * self.boot_s), lambda: self._become(instance, Observation.PULLING)
        )
        return instance

    def _become(self, instance: SimInstance, state: Observation) -> None:
        instance.state = state
        if state is Observation.PULLING:
            self._later(instance, self.random.uniform(1.0, 3.0 * self.boot_s), lambda: self._start(instance))

    def _start(self, instance: SimInstance) -> None:
        if instance.state is Observation.RUNNING and not instance.gone:
            return
        instance.epoch += 1
        instance.state, instance.serves, instance.failed, instance.silent = Observation.RUNNING, False, False, False
        self._boot(instance)
        self._report(instance)
        self._suffer(instance)

    def _boot(self, instance: SimInstance) -> None:
        def ready() -> None:
            instance.serves = True

        if not self.hit("load stuck"):
            self._later(instance, self.random.uniform(1.0, 2.0 * self.boot_s), ready)

    def _halt(self, instance: SimInstance) -> None:
        if instance.state is Observation.RUNNING:
            self._end(instance, Observation.HALTED)

    def _end(self, instance: SimInstance, state: Observation) -> None:
        """Ends what runs on a machine."""
        instance.epoch += 1
        instance.serves, instance.state = False, state
        for served in list(instance.working.values()):
            if not served.done():
                served.set_result(False)
        instance.working.clear()

    def _vanish(self, instance: SimInstance | None) -> None:
        if instance is not None:
            self._end(instance, Observation.EXITED)
            instance.gone = True
            self.all_instances.pop(instance.id, None)

    def _suffer(self, instance: SimInstance) -> None:
        """What befalls a machine while it runs, by chance."""

        def restart() -> None:
            self._end(instance, Observation.EXITED)
            self._start(instance)

        def fail() -> None:
            instance.failed = True

        def fall_silent() -> None:
            instance.silent = True

        fates: dict[str, Callable[[], object]] = {
            "machine dies": lambda: self._end(instance, Observation.EXITED),
            "machine preempted": lambda: self._halt(instance),
            "machine vanishes": lambda: self._vanish(instance),
            "server restarts": restart,
            "error reported": fail,
            "worker silent": fall_silent,
        }
        for kind, fate in fates.items():
            if self.stormy and self.rates[kind]:
                in_s = self.random.expovariate(self.rates[kind] / 3600.0)
                self._later(instance, in_s, lambda kind=kind, fate=fate: self._strike(kind, fate))  # type: ignore[misc]

    def _strike(self, kind: str, fate: Callable[[], object]) -> None:
        if self.stormy:
            self.counts[kind] += 1
            fate()

    def storm(self, begins: bool) -> None:
        """Begins to go wrong, or stops doing so."""
        self.stormy = begins
        for instance in self.all_instances.values():
            if begins and instance.state is Observation.RUNNING:
                self._suffer(instance)

    def _later(self, instance: SimInstance, in_s: float, work: Callable[[], object]) -> None:
        """Does it then, unless what runs on the machine has ended meanwhile."""
        epoch = instance.epoch

        def when_due() -> None:
            if not instance.gone and instance.epoch == epoch:
                work()

        self.loop.call_later(in_s, when_due)

    # -- what workers do -----------------------------------------------------------------------------------------------

    def _report(self, instance: SimInstance) -> None:
        self._later(instance, REPORT_S, lambda: self._report(instance))
        if instance.silent:
            return
        report = Report(
            max_perf=instance.perf if instance.serves else 0.0,
            error="out of memory" if instance.failed else "",
            url=instance.url,
            version="campaign",
            scheme="A5S" if self.thorough else "U",
            working=frozenset(instance.working),
            working_count=len(instance.working),
            cur_load=float(len(instance.working)),
        )
        self._send(instance, report, "report")

    def _send(self, instance: SimInstance, message: Report | Ended, kind: str) -> None:
        if self.hit(f"{kind} lost"):
            return
        times = 2 if self.hit(f"{kind} repeated") else 1
        for _ in range(times):
            if self.hit(f"{kind} late"):
                self.loop.call_later(self.random.uniform(1.0, 40.0), self.tell, instance, message)
            else:
                self.tell(instance, message)

    def serve(self, url: str, idx: int, cost: float) -> "asyncio.Future[bool]":
        """Whether the worker at that address served the request, once it has."""
        served: asyncio.Future[bool] = self.loop.create_future()
        instance = next((b for b in self.all_instances.values() if b.url == url and b.serves), None)
        if instance is None or idx in instance.working:
            served.set_result(False)
            return served
        instance.working[idx] = served
        slower = max(1.0, len(instance.working) / PARALLEL)
        self._later(instance, slower * cost / instance.perf, lambda: self.finish(instance, idx, True))
        return served

    def finish(self, instance: SimInstance, idx: int, success: bool) -> None:
        """The worker is done with a request, or its client has left."""
        served = instance.working.pop(idx, None)
        if served is None:
            return
        if not served.done():
            served.set_result(success)
        self._send(instance, Ended(idx, success, "" if success else "Cancelled"), "end")

    def abandon(self, url: str, idx: int) -> None:
        """A client breaks off."""
        for instance in list(self.all_instances.values()):
            if instance.url == url:
                self.finish(instance, idx, False)


def _listed(instance: SimInstance) -> Instance:
    seen = instance.state if not instance.gone else Observation.EXITED
    address = frozenset({instance.url.removeprefix("http://")})
    return Instance(instance.id, instance.label, seen, address, price=instance.offer.price)
