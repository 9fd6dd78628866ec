"""Instances that carry our label and belong to no worker: ended, but only on proof, and never while they serve.

A store that lost rows, or one from a backup, must not end what runs. An instance is an orphan for sure when two
complete lists `apart_s` apart have shown it without an owner, not soon after a start, and where most of what carries
our label is known; else an operator must look. One that reports with its own token serves: it is adopted, drained, and
destroyed as workers are. One that is silent is destroyed.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from posthouse.domain.endpoint import EndpointId, WorkergroupId
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Goal, Observation, State
from posthouse.domain.offer import Offer, Price
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine.hub import Hub, providers_of
from posthouse.engine.worker_ids import ID_DIGITS
from posthouse.errors import BadRequest, Busy, NotFound, PosthouseError, Unavailable
from posthouse.ports import Provider
from posthouse.template import Workergroup

log = structlog.get_logger()

MAX_HEARD = 100_000
"""Most ids that are remembered of workers that are not here and were heard of; beyond it the oldest go."""
HEARD_S = 60.0
"""For so long after a report a worker counts as one that serves. Reports come every 10 s."""
NOBODY = EndpointId(0)
"""The endpoint of what was adopted to be drained: one that was deleted."""
STATES = {
    # What a worker that was adopted to serve is taken for until it is seen and heard.
    Observation.PROVISIONING: State.CREATING,
    Observation.PULLING: State.LOADING,
    Observation.RUNNING: State.STARTING,
    Observation.HALTED: State.STOPPED,
    Observation.EXITED: State.UNAVAIL,
}


@dataclass(frozen=True, slots=True)
class Orphan:
    """An instance that no worker owns."""

    provider: Provider
    instance: Instance
    worker_id: WorkerId
    """Of its label."""
    since: float
    """When it was first listed so."""
    known: bool
    """Whether a worker here had its label once; else the store may have lost it."""


@dataclass(slots=True)
class Orphans:
    hub: Hub
    destroy: Callable[[Provider, Instance], None]
    """Begins to destroy an instance."""
    owners_of: Callable[[Collection[str]], Awaitable[Mapping[str, EndpointId]]]
    """The endpoint of each of the labels that a worker has, on whatever server."""
    apart_s: float = 120.0
    """Least time between the two lists."""
    is_leader: Callable[[], bool] = lambda: True
    """Whether this server, of several, is the one that ends those that have no worker's label."""
    _began_at: float = field(init=False)
    _listed: dict[str, dict[str, Orphan]] = field(default_factory=dict)
    """Those of the latest list, by provider and id."""
    _doubtful: dict[str, set[str]] = field(default_factory=dict)
    """What was unknown when most of what carries our label was, by provider: an operator decides about each."""
    _heard_at: dict[int, float] = field(default_factory=dict)
    """When each id that no worker here has was last reported with a good token."""

    def __post_init__(self) -> None:
        self._began_at = self.hub.clock.now()

    # -- what is seen --------------------------------------------------------------------------------------------------

    def heard(self, worker_id: int) -> None:
        """Notes a report with a good token of a worker that is not here."""
        self._heard_at.pop(worker_id, None)
        self._heard_at[worker_id] = self.hub.clock.now()
        while len(self._heard_at) > MAX_HEARD:
            del self._heard_at[next(iter(self._heard_at))]

    async def sweep(self, provider: Provider, instances: Sequence[Instance]) -> None:
        """Handles a complete list of a provider: destroys, or adopts to drain, what is surely an orphan."""
        now = self.hub.clock.now()
        ours = list({i.id: i for i in instances if i.label.startswith(self.hub.label_prefix)}.values())
        try:
            without_owner = await self._without_owner(ours)
        except Busy:  # nobody knows whose they are while the store cannot be read
            return
        before = self._listed.get(provider.name, {})
        orphans = [
            Orphan(
                provider,
                instance,
                self._worker_id(instance),
                before[instance.id].since if instance.id in before else now,
                instance.label in self.hub.known_labels,
            )
            for instance in without_owner
        ]
        self._listed[provider.name] = {orphan.instance.id: orphan for orphan in orphans}
        unknown = {orphan.instance.id for orphan in orphans if not orphan.known}
        most = len(unknown) * 2 > len(ours)
        self._doubtful[provider.name] = unknown if most else unknown & self._doubtful.get(provider.name, set())
        if not most and now - self._began_at >= self.hub.stabilization_s:
            leads, here, doubtful = self.is_leader(), self._here(), self._doubtful[provider.name]
            mine = [o for o in orphans if leads or o.instance.label in here]  # who has a worker ends its twin
            sure = [orphan for orphan in mine if orphan.instance.id not in doubtful]
            try:
                await self.end([orphan for orphan in sure if now - orphan.since >= self.apart_s])
            except PosthouseError as error:  # the next list shows them again
                log.warning("could not adopt instances that no worker owns", error=str(error)[:300])

    def troubles(self) -> list[str]:
        """What an operator must look at, as texts for users."""
        return [
            f"provider {name} has {len(ids)} instances of this installation that no worker is known of, when most of "
            "all it lists were: none is destroyed; `posthouse orphans list` shows them, `posthouse orphans adopt` and "
            "`destroy` decide, and so does a restored database that knows them"
            for name, ids in sorted(self._doubtful.items())
            if ids
        ]

    def all(self) -> list[Orphan]:
        """Every orphan of the latest lists."""
        return [orphan for listed in self._listed.values() for orphan in listed.values()]

    def serves(self, orphan: Orphan) -> bool:
        """Whether it reported recently, with a good token."""
        return self.hub.clock.now() - self._heard_at.get(orphan.worker_id, float("-inf")) < HEARD_S

    def find(self, instance_id: str, provider: str = "") -> Orphan:
        """The orphan with this id, or label. Raises: NotFound, BadRequest where several providers have one."""
        found = [
            orphan
            for orphan in self.all()
            if instance_id in (orphan.instance.id, orphan.instance.label) and provider in ("", orphan.provider.name)
        ]
        if not found:
            raise NotFound(f"there is no orphan {instance_id[:255]!r} in the latest lists")
        if len(found) > 1:
            named = ", ".join(f"{orphan.instance.id} at {orphan.provider.name}" for orphan in found)
            raise BadRequest(f"instance_id: {instance_id[:255]!r} may be {named}: say which, with its provider")
        return found[0]

    # -- what becomes of them ------------------------------------------------------------------------------------------

    async def end(self, orphans: Iterable[Orphan]) -> None:
        """Ends them: those that serve once they have finished what they have, the others at once.

        Raises: Busy where the store cannot be used now.
        """
        serving = []
        for orphan in orphans:
            if self.serves(orphan) and orphan.instance.label not in self._here():
                serving.append(
                    self._worker(orphan, NOBODY, WorkergroupId(0), State.IDLE, Goal.GONE, self._prices(orphan))
                )
            else:
                self.destroy(orphan.provider, orphan.instance)
        if serving:
            await self._take_in(NOBODY, serving)
            log.warning("adopted instances that report and that no worker owns, to drain them", count=len(serving))

    async def adopt(self, orphan: Orphan, group: Workergroup) -> Worker:
        """Makes it a worker of a workergroup, to serve. Raises: BadRequest, Busy."""
        provider, label = orphan.provider.name, orphan.instance.label
        if provider not in (there := providers_of(self.hub, group)):
            raise BadRequest(f"workergroup_id: {group.id} rents from {', '.join(there)}, and not from {provider}")
        if label in self._here():
            raise BadRequest(
                f"instance_id: {orphan.instance.id} was made twice, and a worker has its label: destroy it"
            )
        home = self.hub.managed(group.endpoint_id).fleet
        if len(home.workers) >= home.endpoint.scaling.max_workers:
            raise BadRequest(
                f"workergroup_id: endpoint {home.endpoint.name} has its max_workers already: raise that first"
            )
        offers = [offer.offer for offer in self.hub.offers_for(group.endpoint_id) if offer.group_id == group.id]
        state = STATES[orphan.instance.seen]
        goal = Goal.COLD if state is State.STOPPED else Goal.HOT
        worker = self._worker(orphan, group.endpoint_id, group.id, state, goal, offers or self._prices(orphan))
        await self._take_in(group.endpoint_id, [worker])
        self._listed[provider].pop(orphan.instance.id, None)
        return worker

    async def _take_in(self, endpoint_id: EndpointId, workers: Sequence[Worker]) -> None:
        """Writes workers into the store, and reads their endpoint again with them; it may be one that was deleted.

        Raises: Busy where the store cannot be used now, or another server has the endpoint.
        """
        hub, managed = self.hub, self.hub.endpoints.get(endpoint_id)
        if managed is None:
            epoch = await hub.lease.acquire(endpoint_id)
            if epoch is None:
                raise Unavailable(f"another server has endpoint {endpoint_id}: ask that one", hub.tick_s)
            record = await hub.store.open_fleet(endpoint_id, epoch)
            await hub.store.commit(endpoint_id, record.version, epoch, workers, None)
            await hub.take_over(endpoint_id)
            return
        managed.closing = True
        try:
            for wait in hub.before_close:
                await wait(managed)
            await hub.write_down(managed)
            await hub.store.commit(endpoint_id, managed.version, managed.epoch, workers, None)
            await hub.take_over(endpoint_id, again=True)
        finally:
            if hub.endpoints.get(endpoint_id) is managed:  # as it was: the store failed
                managed.closing = False
                hub.bell.set()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _here(self) -> dict[str, str]:
        """The instance of each label that a worker here has."""
        fleets = [managed.fleet for managed in self.hub.endpoints.values()]
        return {worker.label: worker.instance_id for fleet in fleets for worker in fleet.workers.values()}

    async def _without_owner(self, ours: Sequence[Instance]) -> list[Instance]:
        """What belongs to no worker, or was made twice. Takes over an endpoint that has one and that nobody has."""
        here = self._here()
        listed = {i.id for i in ours}
        twice = [i for i in ours if i.label in here and i.id != here[i.label] and here[i.label] in listed]
        foreign = [i for i in ours if i.label not in here]
        owned = await self.owners_of({i.label for i in foreign}) if foreign else {}
        for endpoint_id in {*owned.values()} - self.hub.endpoints.keys():
            if self.hub.directory.get(endpoint_id) is None:  # the store failed between its adoption and this
                await self.hub.take_over(endpoint_id)
        return [*twice, *(i for i in foreign if i.label not in owned)]

    def _worker_id(self, instance: Instance) -> WorkerId:
        """The id in its label, 0 if that has none."""
        text = instance.label.removeprefix(self.hub.label_prefix)
        return WorkerId(int(text) if text.isascii() and text.isdecimal() and len(text) <= ID_DIGITS else 0)

    def _prices(self, orphan: Orphan) -> list[Offer]:
        """Everything that its provider has: an orphan of unknown price costs no more than the dearest."""
        catalog = self.hub.offers.catalogs.get(orphan.provider.name)
        return [] if catalog is None else list(catalog.offers.values())

    def _worker(
        self,
        orphan: Orphan,
        endpoint_id: EndpointId,
        group_id: WorkergroupId,
        state: State,
        goal: Goal,
        offers: Sequence[Offer],
    ) -> Worker:
        instance, now = orphan.instance, self.hub.clock.now()
        like = max(
            offers, key=lambda offer: offer.price.ready_usd_h, default=Offer("", orphan.provider.name, "", Price())
        )
        return Worker(
            id=orphan.worker_id,
            endpoint_id=endpoint_id,
            group_id=group_id,
            label=instance.label,
            provider=orphan.provider.name,
            offer_id=like.id,
            machine=like.machine,
            gpu_name=like.gpu_name,
            num_gpus=like.num_gpus,
            price=instance.price or like.price,
            capabilities=orphan.provider.capabilities,
            created_at=now,
            state=state,
            goal=goal,
            since=now,
            progressed_at=now,
            instance_id=instance.id,
            addresses=instance.addresses,
            message="adopted: no worker was known of it",
        )
