"""What the running server knows, in memory: endpoints with their fleets, workergroups, templates, offers."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

from posthouse.domain.endpoint import DEFAULT_ACCOUNT, AccountId, Endpoint, EndpointId, EndpointState, WorkergroupId
from posthouse.domain.offer import GroupOffer
from posthouse.domain.worker import Worker
from posthouse.engine.choice import chosen
from posthouse.engine.directory import Directory
from posthouse.engine.externals import ExternalCosts
from posthouse.engine.lease import SoleLease
from posthouse.engine.managed import Deeds, ManagedEndpoint, Nothing
from posthouse.engine.offers import Offers
from posthouse.engine.treasury import Treasury
from posthouse.engine.worker_ids import KnownLabels, WorkerIds
from posthouse.errors import BadRequest, Elsewhere, NotFound, StaleVersion
from posthouse.fleet.controller import Controller
from posthouse.fleet.events import Configured, Listed, Released
from posthouse.ports import DEFAULT_ACCOUNT_NAME, Account, Clock, FleetRecord, Lease, Provider, Store
from posthouse.recording.events import Began, EventLog
from posthouse.template import Template, TemplateId, Workergroup
from posthouse.users import SessionRecord, UserRecord
from posthouse.wire.rows import Alias

OPENED = 50
"""Endpoints that are opened without a break: some 50 ms."""
MAX_ENDPOINT_BY_WORKER = 100_000
"""Most workers whose endpoint is remembered. They never move, so any number is right; beyond it all are found again."""
_Offered: TypeAlias = tuple[list[tuple[GroupOffer, ...]], tuple[GroupOffer, ...]]


_FIRST_ACCOUNT = Account(DEFAULT_ACCOUNT, DEFAULT_ACCOUNT_NAME)


@dataclass(slots=True)
class Hub:
    """The one place where everything is found. Owned by one event loop; changed only in synchronous code."""

    store: Store
    clock: Clock
    providers: Mapping[str, Provider]
    default_provider: str
    installation: str
    """The name of this installation; part of every label."""
    stabilization_s: float
    """No scale-down for this long after a start."""
    lease: Lease = field(default_factory=SoleLease)
    endpoints: dict[EndpointId, ManagedEndpoint] = field(default_factory=dict)
    """Those that this server has, also those that are being deleted."""
    directory: Directory = field(default_factory=Directory)
    on_open: list[Callable[[ManagedEndpoint], None]] = field(default_factory=list)
    """Called with every endpoint that this server owns from now on."""
    on_over: list[Callable[[ManagedEndpoint], None]] = field(default_factory=list)  # after its last worker
    before_open: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """What must be done before this server takes an endpoint over: read what another has changed."""
    before_close: list[Callable[[ManagedEndpoint], Awaitable[None]]] = field(default_factory=list)
    """What must be over before another server may have an endpoint: writes, commands, the traffic log."""
    workergroups: dict[WorkergroupId, Workergroup] = field(default_factory=dict)
    """Changed by `put_group` and `drop_group` alone."""
    templates: dict[TemplateId, Template] = field(default_factory=dict)
    accounts: dict[AccountId, Account] = field(default_factory=lambda: {DEFAULT_ACCOUNT: _FIRST_ACCOUNT})
    users: dict[str, UserRecord] = field(default_factory=dict)  # by name
    sessions: dict[str, SessionRecord] = field(default_factory=dict)  # by digest, the oldest first
    secrets: dict[AccountId, dict[str, str]] = field(default_factory=dict)
    """Sealed values by owner and name."""
    aliases: dict[AccountId, dict[str, Alias]] = field(default_factory=dict)
    offers: Offers = field(init=False)
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a controller may want its `Ticked` sooner."""
    deeds: Deeds = field(default_factory=Nothing)
    """Carries out what controllers ask for."""
    events_dir: Path | None = None
    """Where the events of endpoints are kept."""
    keep_events_bytes: int = 0
    """How much of each endpoint since its start; 0: none."""
    tick_s: float = 1.0
    silent_s: float = 60.0
    canary_s: float = 60.0
    seen: set[str] = field(default_factory=set)
    """Providers that have been listed at least once since the start."""
    provider_types: Mapping[str, str] = field(default_factory=dict)  # which installed provider each is
    provider_classes: Mapping[str, Collection[str]] = field(default_factory=dict)
    """The classes of each provider, by name."""
    listing: dict[str, bool] = field(default_factory=dict)  # whether each provider's latest list came
    known_labels: KnownLabels = field(default_factory=KnownLabels)
    _groups: dict[EndpointId, dict[WorkergroupId, Workergroup]] = field(default_factory=dict)
    """The same workergroups by endpoint, so that a tick costs the same however many there are."""
    worker_ids: WorkerIds = field(init=False)
    treasury: Treasury = field(default_factory=Treasury)
    external: ExternalCosts = field(default_factory=ExternalCosts)
    _taking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _endpoint_by_worker: dict[int, EndpointId] = field(default_factory=dict)  # as last found
    _offers_for: dict[EndpointId, _Offered] = field(default_factory=dict)
    """What was last offered to an endpoint, by workergroup and in all."""

    def __post_init__(self) -> None:
        self.offers = Offers(self.clock)
        self.worker_ids = WorkerIds(lambda count, above: self.store.take_worker_ids(count, above))

    def note_label(self, label: str) -> None:
        """Notes the label of an instance: a store from a backup may not know ids that were given since."""
        if label.startswith(self.label_prefix):
            self.worker_ids.note(label.removeprefix(self.label_prefix))

    @property
    def label_prefix(self) -> str:
        """What every label of this installation begins with."""
        return f"posthouse-{self.installation}-"

    async def load(self) -> None:
        """Reads everything from the store, once, at the start. Of several servers each takes its share after that."""
        self.accounts = {a.id: a for a in await self.store.accounts()}
        self.templates = {t.id: t for t in await self.store.templates()}
        await self.treasury.load(self.store)
        for group in await self.store.workergroups():
            self.put_group(group)
        self.users = {user.name: user for user in await self.store.users()}
        self.sessions = {session.digest: session for session in await self.store.sessions()}
        self.secrets = {owner: {**values} for owner, values in (await self.store.secrets()).items()}
        self.aliases = {owner: {**found} for owner, found in (await self.store.aliases()).items()}
        for endpoint in await self.store.endpoints():
            self.directory.put(endpoint)
        if self.lease.is_shared():
            return
        await self.take_over_all({*(e.id for e in self.directory), *await self.store.fleet_ids()})

    async def take_over(self, endpoint_id: EndpointId, again: bool = False) -> bool:
        """The same with one. False if the lease gives it to another server."""
        await self.take_over_all([endpoint_id], again)
        return endpoint_id in self.endpoints

    async def take_over_all(self, endpoint_ids: Iterable[EndpointId], again: bool = False) -> None:
        """Takes endpoints as the store knows them, but those that the lease gives to another server.
        `again`: also those that are here, as another server has written them since and memory is out of date."""
        async with self._taking:
            server = self.lease.server
            wanted = [endpoint_id for endpoint_id in endpoint_ids if again or endpoint_id not in self.endpoints]
            for prepare in self.before_open if wanted else ():
                await prepare()
            epochs = {e: epoch for e in wanted if (epoch := await self.lease.acquire(e)) is not None}
            for endpoint_id in set(wanted) - epochs.keys():
                self.let_go(endpoint_id, await self.lease.owner(endpoint_id))
            fleets = await self.store.open_fleets(epochs) if epochs else {}
            for number, (endpoint_id, record) in enumerate(fleets.items(), 1):
                if number % OPENED == 0:
                    await asyncio.sleep(0)  # requests are answered meanwhile
                if self.lease.server != server:  # it was declared dead meanwhile, and has a new lease
                    break
                _open_again(self, endpoint_id, record, epochs[endpoint_id])
            self.bell.set()

    async def hand_over(self, endpoint_id: EndpointId) -> None:
        """Writes an endpoint down and lets another server have it. Its workers go on, and its requests wait meanwhile.

        Raises: Unavailable if the store cannot be written; then this server has it still.
        """
        managed = self.endpoints[endpoint_id]
        managed.closing = True
        self._point(endpoint_id, None, "")
        managed.handle(Released(), self.clock.now())
        try:
            for wait in self.before_close:
                await wait(managed)
            with suppress(StaleVersion):  # another server has it already
                await self.write_down(managed)
        except BaseException:
            managed.closing = False
            self._point(endpoint_id, managed, self.lease.server)
            self.bell.set()
            raise
        self.let_go(endpoint_id)
        await self.lease.release(endpoint_id)

    async def write_down(self, managed: ManagedEndpoint) -> None:
        """Commits every worker as it is. Raises: StaleVersion, Unavailable."""
        rows, rollouts = managed.fleet.roster.take_changes(), managed.fleet.roster.rollouts.take()
        of_it = managed.fleet.endpoint.id, managed.version, managed.epoch
        if rows or rollouts:
            managed.version = await self.store.commit(*of_it, rows, None, rollouts)
            self.known_labels.note(rows)

    async def open_new(self, endpoint: Endpoint) -> None:
        """Begins to manage an endpoint that has just been made, if the lease gives it to this server."""
        self.directory.put(endpoint)
        epoch = await self.lease.acquire(endpoint.id)
        if epoch is not None and endpoint.id not in self.endpoints:
            self.open(endpoint, epoch=epoch)

    def open(self, endpoint: Endpoint, record: FleetRecord | None = None, epoch: int = 1) -> ManagedEndpoint:
        """Begins to manage an endpoint: a new one, or one that has a past."""
        now = self.clock.now()
        managed = ManagedEndpoint.open(
            endpoint,
            now,
            record or FleetRecord(0, ()),
            self.stabilization_s if record is not None else 0.0,
            epoch=epoch,
            deeds=self.deeds,
            label=self.label_prefix,
            known=frozenset(self.providers),
            tick_s=self.tick_s,
            silent_s=self.silent_s,
            canary_s=self.canary_s,
            keep=partial(_kept, self),
        )
        self.add(managed)
        self.configure(managed)
        for provider in self.seen if record is None else ():  # nothing is there, so what others saw is enough
            managed.handle(Listed(provider, (), now), now)
        return managed

    def add(self, managed: ManagedEndpoint) -> None:
        """Adds an endpoint that this server owns from now on."""
        endpoint = managed.fleet.endpoint
        self.endpoints[endpoint.id] = managed
        self.treasury.settle(managed, self.clock.now())
        if endpoint.name:  # not one that is deleted already
            self.directory.put(endpoint)
        self._point(endpoint.id, managed, self.lease.server)
        for tell in self.on_open:
            tell(managed)

    def configure(self, managed: ManagedEndpoint, endpoint: Endpoint | None = None) -> None:
        """Sends the endpoint's parameters and providers to its controller, after either has changed."""
        endpoint, groups = endpoint or managed.fleet.endpoint, self.groups_of(managed.fleet.endpoint.id)
        used = frozenset(name for group in groups for name in providers_of(self, group))
        managed.handle(Configured(endpoint, used, _builds(groups, self.templates)), self.clock.now())

    def _point(self, endpoint_id: EndpointId, managed: ManagedEndpoint | None, server: str) -> None:
        listed = self.directory.get(endpoint_id)
        if listed is not None:
            listed.managed, listed.server = managed, server

    def let_go(self, endpoint_id: EndpointId, server: str = "") -> None:
        """Forgets what is in memory of an endpoint, and answers its held requests that they wait."""
        self._point(endpoint_id, None, server)
        managed = self.endpoints.pop(endpoint_id, None)
        if managed is not None:
            managed.closing = True
            managed.handle(Released(), self.clock.now())
            managed.let_go(self.clock.now())

    def release(self) -> None:
        """Answers every held request that it waits."""
        for managed in self.endpoints.values():
            managed.handle(Released(), self.clock.now())

    def named(self, name: str, account_id: AccountId = DEFAULT_ACCOUNT) -> ManagedEndpoint | None:
        """The account's endpoint with this name, None if this server has none."""
        listed = self.directory.find(account_id, name)
        return None if listed is None else listed.managed

    def fleet_named(self, name: str, account_id: AccountId = DEFAULT_ACCOUNT) -> Controller | None:
        """Its fleet."""
        managed = self.named(name, account_id)
        return None if managed is None else managed.fleet

    def managed(self, endpoint_id: int, sees: AccountId | None = None) -> ManagedEndpoint:
        """Raises: NotFound for one that does not exist, is being deleted, or is of another account than `sees`;
        Elsewhere for one that another server has."""
        managed = self.endpoints.get(EndpointId(endpoint_id))
        if managed is None:
            found = self.find(endpoint_id, sees)
            raise Elsewhere(f"another server has endpoint {endpoint_id}", endpoint_id=found.id)
        if managed.leaving or sees not in (None, managed.fleet.endpoint.account_id):
            raise NotFound(f"endpoint {endpoint_id} does not exist")
        return managed

    def find(self, endpoint_id: int, sees: AccountId | None = None) -> Endpoint:
        """The endpoint as it is now, on whatever server. Raises: NotFound, as `managed`."""
        found = self.endpoint(endpoint_id)
        if found is None or sees not in (None, found.account_id):
            raise NotFound(f"endpoint {endpoint_id} does not exist")
        return found

    def account_name(self, account_id: AccountId) -> str:
        """The account's name, for people."""
        return self.accounts[account_id].name if account_id in self.accounts else DEFAULT_ACCOUNT_NAME

    def endpoint(self, endpoint_id: int) -> Endpoint | None:
        """The endpoint as it is now, on whatever server; None if it does not exist or is being deleted."""
        listed = self.directory.get(EndpointId(endpoint_id))
        return None if listed is None else listed.endpoint

    def home_of(self, worker_id: int) -> ManagedEndpoint | None:
        """The endpoint that has the worker, None if none has."""
        home = self.endpoints.get(self._endpoint_by_worker.get(worker_id, EndpointId(0)))
        if home is not None and worker_id in home.fleet.workers:
            return home
        for endpoint_id, managed in self.endpoints.items():
            if worker_id in managed.fleet.workers:
                if len(self._endpoint_by_worker) >= MAX_ENDPOINT_BY_WORKER:
                    self._endpoint_by_worker.clear()
                self._endpoint_by_worker[worker_id] = endpoint_id
                return managed
        return None

    def groups_of(self, endpoint_id: EndpointId) -> list[Workergroup]:
        return list(self._groups.get(endpoint_id, {}).values())

    def put_group(self, group: Workergroup) -> None:
        """Adds or replaces a workergroup; it never moves to another endpoint."""
        self.workergroups[group.id] = group
        self._groups.setdefault(group.endpoint_id, {})[group.id] = group

    def drop_group(self, group_id: WorkergroupId) -> None:
        """Forgets a workergroup, and what was offered to it."""
        endpoint_id = self.workergroups.pop(group_id).endpoint_id
        del self._groups[endpoint_id][group_id]
        if not self._groups[endpoint_id]:
            del self._groups[endpoint_id]
        self.offers.drop_group(group_id)
        self._offers_for.pop(endpoint_id, None)

    def offers_for(self, endpoint_id: EndpointId) -> tuple[GroupOffer, ...]:
        """What the endpoint's workergroups could rent, as last seen; the same object while nothing has changed."""
        found = _found(self, endpoint_id)
        before, offers = self._offers_for.get(endpoint_id, ([], ()))
        if len(before) != len(found) or any(a is not b for a, b in zip(before, found, strict=True)):
            offers = tuple(offer for part in found for offer in part)
            self._offers_for[endpoint_id] = found, offers
        return offers

    def template_of(self, worker: Worker) -> Template | None:
        """What the worker runs; None if that was deleted."""
        group = self.workergroups.get(worker.group_id)
        return None if group is None else self.templates.get(group.template_id)

    def provider_of(self, worker: Worker) -> Provider | None:
        """The provider that has the worker; None if it is no longer configured."""
        return self.providers.get(worker.provider)


def _open_again(hub: Hub, endpoint_id: EndpointId, record: FleetRecord, epoch: int) -> None:
    """Opens an endpoint as it was written down."""
    hub.known_labels.note(record.workers)
    hub.let_go(endpoint_id)
    listed, now = hub.directory.get(endpoint_id), hub.clock.now()
    endpoint = _deleted(endpoint_id, record.account_id) if listed is None else listed.endpoint
    managed = hub.open(endpoint, record, epoch)
    if listed is None:
        managed.close(now)
    # Of a workergroup that is deleted, where the crash came before its workers went.
    managed.dismiss([w for w in managed.fleet.workers.values() if w.group_id not in hub.workergroups], now)


def _kept(hub: Hub, began: Began) -> EventLog | None:
    """Where the events of an endpoint are kept, if they are."""
    if not hub.keep_events_bytes or hub.events_dir is None:
        return None
    return EventLog(hub.events_dir / f"{began.endpoint.id}-{began.now:.3f}.jsonl", began, hub.keep_events_bytes)


def _builds(
    groups: Iterable[Workergroup], templates: Mapping[TemplateId, Template]
) -> tuple[tuple[WorkergroupId, str], ...]:
    """The version that each workergroup's template is."""
    found = [(group.id, templates.get(group.template_id)) for group in groups]
    return tuple((group_id, template.build()) for group_id, template in found if template is not None)


def providers_named(hub: Hub, words: str) -> tuple[str, ...]:
    """The providers that words name, by name, type or class; the default ones for no word. Raises: BadRequest."""
    types = {name: hub.provider_types.get(name, name) for name in hub.providers}
    return chosen(words or hub.default_provider, types, hub.provider_classes)


def providers_of(hub: Hub, group: Workergroup) -> tuple[str, ...]:
    """The providers that a workergroup may rent from; none where what it names no longer exists."""
    try:
        return providers_named(hub, group.provider)
    except BadRequest:
        return ()


def _found(hub: Hub, endpoint_id: EndpointId) -> list[tuple[GroupOffer, ...]]:
    """What each workergroup of an endpoint could rent, at each of its providers that answered when it was last asked
    what it has: of another nobody would know what became of a rental."""
    return [
        hub.offers.for_group(group, provider, hub.templates.get(group.template_id))
        for group in hub.groups_of(endpoint_id)
        for provider in providers_of(hub, group)
        if hub.listing.get(provider, True)
    ]


def _deleted(endpoint_id: EndpointId, account_id: AccountId) -> Endpoint:
    """Stands for an endpoint that was deleted while workers of it were left: nothing is wanted of it any more."""
    return Endpoint(endpoint_id, name="", state=EndpointState.STOPPED, account_id=account_id)
