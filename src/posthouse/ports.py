"""What the engine needs of the world. Adapters implement these; `app.wiring` hands them over."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from posthouse.audit import Audit
from posthouse.domain.endpoint import DEFAULT_ACCOUNT, AccountId, Endpoint, EndpointId, WorkergroupId
from posthouse.domain.instance import Instance
from posthouse.domain.offer import Capabilities, Offer
from posthouse.domain.rollout import Rollout
from posthouse.domain.worker import Worker, WorkerId
from posthouse.keys import KeyRecord, KeyUse
from posthouse.recording.history import Histories
from posthouse.recording.segment import Segment
from posthouse.template import Runs, Template, TemplateId, Workergroup
from posthouse.users import SessionRecord, UserRecord
from posthouse.wire.rows import Alias


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch as we count them: even, never going back, not even across a restart."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch as other machines count them; it may jump. For what others compare with theirs."""
        ...


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """What a private registry asks for before it gives an image away."""

    host: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """What a provider is asked to create."""

    label: str
    worker_id: int
    image: str
    onstart: str
    disk_gb: float
    env: dict[str, str] = field(default_factory=dict, repr=False)  # has secrets
    ports: tuple[int, ...] = (3000,)
    """Ports inside the instance that must be reachable from outside; the first is the worker's own."""
    num_gpus: int = 0
    """GPUs of the offer it was chosen for."""
    gpu_ram_gb: float = 0.0
    """Estimate of the model's size, of the workergroup; 0 if nobody said."""
    launch_args: str = ""
    """The workergroup's own words for the provider, in whatever language that understands."""
    registry: RegistryLogin | None = None
    """For the image's registry, if its login is among the secrets."""


class Provider(Protocol):
    """Somewhere workers can be had.

    Every call may raise Busy (ask again later), Refused (an operator must act), OfferTaken (`create` only) or anything
    else, which then means that the outcome is unknown: the engine looks by label before it does anything more.
    """

    name: str
    capabilities: Capabilities
    """What it can do with a worker; an offer may say otherwise for its own. What is not among them is never asked."""

    async def catalog(self) -> Sequence[Offer]:
        """Everything that can be rented now, unfiltered: the engine filters, and keeps it for a while."""
        ...

    async def create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        """The new instance; one that has the label already is returned as it is.

        `max_usd_h`: what it may cost in all while it serves; one that costs more by now is taken. Raises: OfferTaken,
        Refused, Busy.
        """
        ...

    async def start(self, instance_id: str) -> None:
        """Starts a stopped instance; one that runs already is success."""
        ...

    async def update(self, instance_id: str, spec: InstanceSpec) -> Instance:
        """The instance, stopped or not, once nothing of before runs in it and it runs what `spec` says, on its disk
        if its provider can keep that.

        `label`, `worker_id` and `disk_gb` stay as they were. Raises: NotFound, Refused, Busy: then it is as it was.
        """
        ...

    async def stop(self, instance_id: str) -> None:
        """Stops an instance and keeps its disk; one that is stopped already is success."""
        ...

    async def destroy(self, instance_id: str) -> None:
        """Ends an instance and its disk; one that is gone already is success."""
        ...

    async def instances(self) -> Sequence[Instance]:
        """Every instance that this installation made, by label, and no other. Complete, or an exception."""
        ...

    async def logs(self, instance_id: str, tail: int) -> str:
        """The last `tail` lines that the instance printed; empty if it has none. `instance_id` may be of one gone."""
        ...

    def troubles(self) -> list[str]:
        """What an operator should mend, as `/readyz` and `posthouse status` say it. At once, from what is known."""
        ...

    async def close(self) -> None:
        """Lets go of connections; instances go on."""
        ...


class Signer(Protocol):
    @property
    def public_pem(self) -> str:
        """The public half, as workers fetch it."""

    def sign(self, data: bytes) -> str:
        """Base64 of the RSA PKCS#1 v1.5 signature over SHA-256 of `data`."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who owns endpoints, templates, keys and secrets. An installation begins with one, and needs no other."""

    id: AccountId
    name: str
    created_at: float = 0.0


DEFAULT_ACCOUNT_NAME = "default"


@dataclass(frozen=True, slots=True)
class FleetRecord:
    """What the store remembers of one endpoint's fleet."""

    version: int
    workers: tuple[Worker, ...]
    """Every worker not DESTROYED, and the latest destroyed ones: performance is learned from them, people see them."""
    spent_usd: float = 0.0
    """Dollars spent by workers that are DESTROYED, all of them that ever were."""
    account_id: AccountId = DEFAULT_ACCOUNT
    """Who owns the endpoint, or did while there was one: who pays."""
    rollouts: tuple[Rollout, ...] = ()
    """Which version its workergroups run, and how far their updates are."""


@dataclass(frozen=True, slots=True)
class PeriodRecord:
    """What had been spent in all when a calendar day or month began."""

    endpoint_id: EndpointId
    """Whose money it is; -1: of the installation, with its endpoints that were deleted."""
    kind: str
    """`day` or `month`."""
    began_at: float
    before_usd: float


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A decision as it is kept: plain data, ready for JSON."""

    endpoint_id: EndpointId
    at: float
    body: dict[str, Any]


class Lease(Protocol):
    """Which endpoints this server may run. At any moment one server at most has an endpoint."""

    @property
    def server(self) -> str:
        """This server's name among those that share the store."""

    async def acquire(self, endpoint_id: EndpointId) -> int | None:
        """The epoch under which this server has the endpoint from now on; None while another server has it.

        An epoch is above every earlier one of the same endpoint, and the store takes no commit of an earlier one.
        """

    async def release(self, endpoint_id: EndpointId) -> None:
        """Lets another server have the endpoint; one that this server does not have is success."""

    async def owner(self, endpoint_id: EndpointId) -> str:
        """The name of the server that has the endpoint; empty if none has."""

    def holds(self) -> bool:
        """Whether this server is known to have what it has, at this moment: else it begins nothing. At once."""

    def is_shared(self) -> bool:
        """Whether what this server does not have may be at another one."""

    def server_count(self) -> int:
        """How many live servers share the store."""


class Catalogue(Protocol):
    """What users make. `put_*` returns the row as it is stored now, with its `revision` raised by one.

    Raises: StaleVersion if the row was changed since it was read, which its `revision` tells.
    """

    async def endpoints(self) -> Sequence[Endpoint]: ...
    async def add_endpoint(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint with its id; `id` 0 in, a fresh one out. Ids are never used twice."""

    async def put_endpoint(self, endpoint: Endpoint) -> Endpoint: ...
    async def drop_endpoint(self, endpoint_id: EndpointId) -> None:
        """Removes the endpoint and its workergroups; its workers' rows stay."""

    async def workergroups(self) -> Sequence[Workergroup]: ...
    async def add_workergroup(self, group: Workergroup) -> Workergroup: ...
    async def put_workergroup(self, group: Workergroup) -> Workergroup: ...
    async def drop_workergroup(self, group_id: WorkergroupId) -> None: ...

    async def templates(self) -> Sequence[Template]: ...
    async def add_template(self, template: Template) -> Template: ...
    async def put_template(self, template: Template) -> Template: ...
    async def drop_template(self, template_id: TemplateId) -> None: ...
    async def version(self, build: str) -> Runs | None:
        """What a template said before it was changed or dropped, by the name of that; None if it is not kept.

        It is kept while an endpoint's `rollouts` name it.
        """

    async def aliases(self) -> Mapping[AccountId, Mapping[str, Alias]]:
        """By owner and name."""

    async def put_alias(self, account_id: AccountId, alias: Alias) -> None:
        """Adds the alias, or replaces it: these have no revision."""

    async def drop_alias(self, account_id: AccountId, name: str) -> None: ...
    async def manifest(self, endpoint_id: EndpointId) -> tuple[dict[str, Any], float] | None:
        """The manifest of an endpoint as it was applied last, and when; None if none was. It goes with the endpoint."""

    async def put_manifest(self, endpoint_id: EndpointId, body: dict[str, Any], at: float) -> None: ...


class Keys(Protocol):
    """Who there is, and what they keep secret."""

    async def accounts(self) -> Sequence[Account]:
        """Every account, the installation's own first."""
        ...

    async def add_account(self, account: Account) -> Account:
        """The account with its id; `id` 0 in, a fresh one out."""
        ...

    async def keys(self) -> Sequence[KeyRecord]: ...
    async def add_key(self, key: KeyRecord) -> None: ...
    async def revoke_key(self, key_id: str, revoked_at: float) -> None:
        """Revokes a key. One that is revoked already stays as it was."""
        ...

    async def change_key(self, key: KeyRecord) -> None:
        """Changes the name and the limits of a key to these. Raises: NotFound."""
        ...

    async def note_key_use(self, key_id: str, used_at: float, use: KeyUse | None = None) -> None:
        """Notes when a key was used, unless a later time is noted, and adds what it used meanwhile."""
        ...

    async def users(self) -> Sequence[UserRecord]:
        """Everybody who may sign in with a password."""
        ...

    async def add_user(self, user: UserRecord) -> UserRecord:
        """The user with its id; `id` 0 in, a fresh one out. Raises: BadRequest if the name is taken."""
        ...

    async def change_user(self, user: UserRecord) -> None:
        """Replaces what is stored of the user. Raises: NotFound."""
        ...

    async def drop_user(self, user_id: int) -> None: ...

    async def sessions(self) -> Sequence[SessionRecord]: ...  # the oldest first
    async def put_session(self, session: SessionRecord, ended: Collection[str]) -> None:
        """Adds a session, and drops those with these digests."""
        ...

    async def drop_sessions(self, digests: Collection[str]) -> None: ...

    async def secrets(self) -> Mapping[AccountId, Mapping[str, str]]:
        """Sealed values by owner and name: the store never sees a value itself."""
        ...

    async def put_secret(self, account_id: AccountId, name: str, sealed: str) -> None:
        """Adds the secret, or replaces it."""
        ...

    async def drop_secret(self, account_id: AccountId, name: str) -> None: ...


class Fleets(Protocol):
    """The workers of every endpoint, and the decisions about them."""

    async def open_fleet(self, endpoint_id: EndpointId, epoch: int) -> FleetRecord:
        """The endpoint's fleet, new if never committed. Refuses commits of earlier epochs. Raises: StaleVersion."""

    async def open_fleets(self, epochs: Mapping[EndpointId, int]) -> Mapping[EndpointId, FleetRecord]:
        """The same with several, all or none."""

    async def fleet_ids(self) -> Sequence[EndpointId]:
        """Every endpoint id, present or dropped, that still has workers not DESTROYED."""

    async def workers_labelled(self, labels: Collection[str]) -> Mapping[str, EndpointId]:
        """The endpoint of each of these labels that a worker not DESTROYED has, on whatever server."""

    async def living_workers(self, but: Collection[EndpointId]) -> Sequence[Worker]:
        """Every worker not DESTROYED of other endpoints than these."""

    async def take_worker_ids(self, count: int, above: int) -> WorkerId:
        """The first of `count` ids in a row that no worker of any server ever had, all of them greater than `above`."""

    async def commit(
        self,
        endpoint_id: EndpointId,
        expected_version: int,
        epoch: int,
        workers: Sequence[Worker],
        entry: JournalEntry | None,
        rollouts: Sequence[Rollout] = (),
    ) -> int:
        """The fleet's new version, with `workers` inserted or replaced and `entry` appended, all or nothing.

        `rollouts`: all of them; empty if none has changed.

        Raises: StaleVersion if the stored version is not `expected_version`, or the fleet was opened or committed under
        a later epoch; nothing is written then.
        """

    async def journal(self, endpoint_id: EndpointId, limit: int) -> Sequence[JournalEntry]:
        """The latest entries, newest first."""

    async def spent_usd(self) -> Mapping[EndpointId, float]:
        """Dollars spent by DESTROYED workers, of every endpoint that ever was."""

    async def periods(self) -> Sequence[PeriodRecord]:
        """The latest day and month of each endpoint and of the installation."""

    async def put_periods(self, records: Sequence[PeriodRecord]) -> None:
        """Notes that periods have begun, in place of those before."""

    async def latest_at(self) -> float:
        """The latest time in what is stored of fleets, 0 if none: no clock may start before it."""


class Recordings(Protocol):
    """Recorded traffic."""

    async def add_segment(self, endpoint_id: EndpointId, segment: Segment, keep_bytes: int) -> None:
        """Appends a segment of an endpoint's traffic log, and drops its oldest ones beyond `keep_bytes`."""
        ...

    async def segments(self, endpoint_id: EndpointId, after: float = 0.0) -> Sequence[Segment]:
        """The endpoint's segments that end after `after`, oldest first."""
        ...


class Store(Catalogue, Keys, Fleets, Recordings, Histories, Audit, Protocol):
    """What survives a restart. Every write is durable when the call returns.

    Raises: NotFound for an id that is not there, BadRequest for a name that is taken, Unavailable while it cannot be
    read or written; nothing has been changed then.
    """

    async def installation(self) -> str:
        """The name of this installation, made once; part of every label."""
        ...

    async def next_epoch(self) -> int:
        """A number greater than every one before: of a server that starts."""
        ...

    async def revisions(self) -> Mapping[str, int]:
        """How often each of `accounts`, `endpoints`, `workergroups`, `templates`, `keys`, `secrets` and `aliases` was
        changed.

        Servers compare these, and read again what another server has changed. The use of a key is no change.
        """
        ...

    def troubles(self) -> list[str]:
        """What failed recently, for people."""
        ...

    async def close(self) -> None: ...
