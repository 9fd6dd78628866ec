"""The other answers of our own calls."""

from dataclasses import dataclass, field

from posthouse.wire.rows.base import Row
from posthouse.wire.rows.live import Figures, Verdict, WorkerPage


@dataclass(frozen=True, slots=True, kw_only=True)
class Reachable(Row):
    """An endpoint that a key may ask for a worker."""

    id: int
    name: str
    created_at: float
    adapters: list[str] = field(default_factory=list)
    """That its workers which are ready hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update(Row):
    """How far the update of a workergroup is, or how the latest one ended."""

    workergroup_id: int
    phase: str
    """`canary`: one worker runs the new version and is compared with the others. `inactive`, then `active`: workers
    that take no requests follow, then those that serve. `done`, `rolled back` or `cancelled`: it is over."""
    since: float
    """When it came to be canary, inactive and active together, or over."""
    new: int
    """Workers that run the new version."""
    old: int
    """Workers that do not."""
    reason: str
    """Why it is over, what the canary showed, or what the latest worker of the new version that failed said."""
    stable: str
    """The version that is known to work; empty while none is."""
    target: str
    """The version that the template is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing(Row):
    """How an endpoint stands."""

    endpoint: str
    state: str
    workers: dict[str, int]
    """How many, by state."""
    waiting: int
    """Requests that wait for a worker."""
    oldest_wait_s: float
    why: str
    """What keeps it from having a ready worker; empty where it has one, or wants none."""
    usd_h: float
    spent_usd: float
    updates: list[Update] = field(default_factory=list)
    """Of each workergroup that was ever updated."""
    limited: dict[str, int] = field(default_factory=dict)
    """Requests that were refused since the server started, by the limit of their key: `requests`, `work`, `at once`."""
    id: int = 0
    condition: str = ""
    """`enough`, `starting`, `busy`, `short`, `at_rest`, `updating`, `suspended`, `stopped` or `deleting`."""
    verdict: Verdict | None = None
    """What keeps it from the capacity that it needs; null where it has that."""
    figures: Figures = field(default_factory=Figures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session(Row):
    """Somebody who is signed in to the console."""

    name: str
    """Of the key that was shown, or of the user."""
    scope: str
    account: str
    installation: str
    csrf: str
    """To be sent as the header `X-CSRF-Token` with every call that changes something."""
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyLeft(Row):
    """What a cap on money leaves."""

    cap: str
    """The parameter or setting; `external:NAME`: what may be spent in a day at a server that aliases fall back on."""
    endpoint: str
    """Whose parameter it is; empty: a setting, for all endpoints together."""
    limit: float
    """US dollars, or US dollars per hour."""
    used: float
    """Spent in the period, or what runs may come to cost per hour."""
    usd_h: float
    """What all that runs may cost per hour at most, so that the cap holds."""
    ends_at: float
    """When the day or month ends; 0 for a cap by the hour."""
    level: str
    """`ok`, `warn` from 80 % on, `full` where nothing more may be started, `drain` where something has to go."""
    text: str
    """The same for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Row):
    """What a server is, and how all stands."""

    version: str
    installation: str
    providers: list[str]
    default_provider: str
    endpoints: int
    uptime_s: float
    troubles: list[str]
    """What fails now, as `/readyz` has it."""
    usd_h: float
    """US dollars per hour now, of every endpoint that the caller may see."""
    spent_usd: float
    """US dollars so far: of all that ever was to who sees the installation's caps, else of the endpoints there are."""
    standing: list[Standing]
    """Of each endpoint."""
    caps: list[MoneyLeft] = field(default_factory=list)
    """What each cap on money leaves, of those that the caller may see."""
    gateway: str = ""
    """Base address of OpenAI's API, if the server keeps a gateway."""
    servers: int = 1
    """How many servers of the installation live, as this one knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointKey(Row):
    """The key that can only route to an endpoint."""

    endpoint_id: int
    api_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker(Row):
    """A worker."""

    id: int
    endpoint: str
    workergroup_id: int
    state: str
    goal: str
    url: str
    instance_id: str
    provider: str
    machine: str
    gpu_name: str
    num_gpus: int
    perf: float
    """Work per second that it can do; 0 until it has measured itself."""
    outstanding: float
    """Work that it was given and has not finished."""
    busy: bool
    penalty_s: float
    """Seconds of waiting held against it, as requests failed there recently."""
    price_usd_h: float
    """US dollars per hour in its present state."""
    spent_usd: float
    age_s: float
    load_s: float
    """How long it took to become ready, the last time."""
    version: str
    scheme: str
    message: str
    """What it or its provider last said went wrong."""
    gone_at: float = 0.0
    """When it was destroyed; 0 while it is there."""
    build: str = ""
    """The version of its template that it runs; empty if nobody knows."""
    update: str = ""
    """`canary`: it is the first of a new version; `due`: it waits for its update."""
    look: str = ""
    """hot, loading, cold, draining, failed or gone."""
    page: WorkerPage | None = None
    """Where one worker was asked for: the rest of what is known of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLogs(Row):
    """The last lines that a worker printed."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Key(Row):
    """A key of an account, without the key itself."""

    id: str
    name: str
    scope: str
    account: str
    """Whose key it is; `default` where there is one account."""
    created_at: float
    last_used_at: float | None
    revoked_at: float | None
    requests_per_minute: int | None = None
    work_per_minute: int | None = None
    at_once: int | None = None
    """Its limits; null: none."""
    used_requests: int = 0
    used_work: float = 0.0
    refused_requests: int = 0
    """What it used, and how often it was refused, counted while it has limits."""
    usd_month: float = 0.0
    """What it cost this month, UTC, in US dollars: its share by work of what endpoints cost in each hour, and all that
    was paid for it to servers of others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MintedKey(Key):
    """A key that was just made."""

    key: str
    """The key itself. It is not stored and cannot be shown again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleUser(Row):
    """Somebody who may sign in to the console with a password."""

    name: str
    scope: str
    account: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn(Row):
    """How one may sign in to the console, beside with an account key."""

    passwords: bool
    """Whether there are users with passwords."""
    oidc: str
    """What the OpenID provider is called; empty: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account(Row):
    """An account: it has endpoints, templates, keys and secrets of its own."""

    id: int
    """`user_id` in the protocol's words."""
    name: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider(Row):
    """A provider that workers are rented from."""

    name: str
    """Of its table `[providers.NAME]`, and what workergroups name it by."""
    type: str
    default: bool
    """Whether workergroups that name no provider rent here."""
    capabilities: list[str]
    """Of stop, update, logs, interruptible."""
    answers: bool
    """Whether its latest list of instances and its latest catalogue came."""
    offers: int | None
    """How many offers its latest catalogue has; null before the first."""
    catalog_age_s: float | None
    """How old that is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderCheck(Row):
    """What one thing that a provider was asked showed."""

    what: str
    ok: bool
    text: str
    """What came, or what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedOffer(Row):
    """What could be rented."""

    provider: str
    id: str
    machine: str
    zone: str
    gpu_name: str
    num_gpus: int
    gpu_ram_mb: float
    """Of each GPU."""
    available: int
    """How many workers it can still take."""
    reliability: float
    interruptible: bool
    ready_usd_h: float
    """US dollars per hour with its disk, while it serves; and while it is stopped."""
    stopped_usd_h: float | None
    """Null: it cannot be stopped and keep its disk."""
    workergroup_id: int | None = None
    """For an endpoint: whose workergroup may rent it."""
    perf: float | None = None
    """For an endpoint: work per second that is counted on; null where nothing is measured yet."""
    why: str = ""
    """For an endpoint: what its place in the list follows from."""
    obstacle: str = ""
    """For an endpoint: why it cannot be rented now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan(Row):
    """An instance that carries this installation's label and that no worker owns."""

    instance_id: str
    provider: str
    label: str
    worker_id: int
    """The id in its label."""
    state: str
    """As its provider lists it."""
    reports: bool
    """Whether it has reported within a minute: then it serves."""
    known: bool
    """Whether a worker here had its label once; else the database may have lost it."""
    listed_s: float
    """How long it has been listed so."""
