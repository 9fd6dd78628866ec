"""What an endpoint decided and why, and what it was asked."""

from dataclasses import dataclass, field
from typing import Any

from posthouse.domain.demand import Demand
from posthouse.domain.endpoint import Scaling
from posthouse.domain.estimates import Estimates
from posthouse.wire.rows.base import Row
from posthouse.wire.rows.live import Verdict
from posthouse.wire.rows.own import MoneyLeft, Update


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason(Row):
    """One line of an explanation."""

    what: str
    """The quantity."""
    value: float | str
    rule: str = ""
    """The rule that gave the value."""
    obstacle: bool = False
    """It keeps the endpoint from workers that it needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rental(Row):
    """A worker to be rented."""

    workergroup: int
    offer: str
    goal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Row):
    """What an endpoint should look like, and why. Units: work per second; None while that is unmeasured."""

    at: float
    hot_need: float | None
    """Hot capacity wanted."""
    hot_supply: float | None
    """Hot capacity that is there or coming, after this decision."""
    ready_supply: float | None
    """Hot capacity that is ready now."""
    goals: dict[str, str] = field(default_factory=dict)
    """New goals by worker id; only those that change."""
    rentals: list[Rental] = field(default_factory=list)
    because: list[Reason] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry(Row):
    """A decision that was kept."""

    at: float
    decision: Decision
    title: str = ""
    """What it does, in a few words."""
    text: str = ""
    """Why, in at most three sentences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCounts(Row):
    """How many workers there are."""

    by_state: dict[str, int]
    by_goal: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Affinity(Row):
    """What became of requests that say by a key which others begin alike, since the server started."""

    asked: int
    kept: int
    """They went to the worker that the key stands for."""
    saves_share: float
    """So much of a request's own time counts for that worker; others are chosen where they would end it sooner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation(Row):
    """Why an endpoint has the workers that it has."""

    endpoint: str
    state: str
    scaling: Scaling
    workers: WorkerCounts
    demand: Demand
    estimates: Estimates
    usd_h: float
    """US dollars per hour now."""
    spent_usd: float
    decision: Decision | None
    """The latest; None before the first."""
    messages: dict[str, str]
    """What workers, by id, or their providers last said went wrong."""
    failures: dict[str, str]
    """The same of the latest that failed within a day, also of those that are gone."""
    caps: list[MoneyLeft] = field(default_factory=list)
    """What each cap on money leaves: the endpoint's, and the installation's."""
    updates: list[Update] = field(default_factory=list)
    """Of each workergroup that was ever updated."""
    limited: dict[str, int] = field(default_factory=dict)
    """Requests that were refused since the server started, by the limit of their key: `requests`, `work`, `at once`."""
    affinity: Affinity | None = None
    """Null where nothing was ever asked with a key."""
    verdict: Verdict | None = None
    """What keeps it from the capacity that it needs; null where it has that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment(Row):
    """A part of the recorded traffic of an endpoint."""

    since: float
    until: float
    requests: int
    """How many came. Those that `asked` lacks were too many to keep."""
    asked: str
    """Base64 of a zlib stream of n uint32 and n float32, little-endian: milliseconds since the request before or
    `since`, and work. First the lowest byte of every number, then the next, and so on."""
    waited: str
    """The same, of those that waited for a worker: milliseconds, work."""
    figures: dict[str, Any]
    """`workers` at its beginning; `state_s`, worker-seconds by state; `usd`; `ready_work`, what ready workers could
    have done; `given`, commands to providers; `unserved` requests and their work; seconds of starts and creations;
    `served`, pairs of work and seconds of requests that had a worker for themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineKind(Row):
    """A kind of machine that an endpoint has or could have."""

    kind: str
    gpu_name: str
    num_gpus: int
    perf: float
    """Work per second, as learned; 0 if not yet."""
    ready_usd_h: float
    loading_usd_h: float
    stopped_usd_h: float
    workers: int
    available: int
    """How many more could be rented."""
    agent: bool
    """Posthouse's agent runs on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic(Row):
    """What an endpoint was asked, and what a replay of it needs."""

    endpoint: str
    scaling: Scaling
    kinds: list[MachineKind]
    start_s: float
    """Seconds from stopped to ready, as learned or assumed."""
    create_s: float
    """Seconds from nothing to ready, as learned or assumed."""
    segments: list[Segment]
