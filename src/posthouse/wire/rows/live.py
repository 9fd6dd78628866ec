"""How an endpoint and a worker stand now, and what they have been: what a dashboard draws."""

from dataclasses import dataclass, field

from posthouse.wire.rows.base import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures(Row):
    """The figures of an endpoint now. Capacity counts what is measured."""

    load: float = 0.0
    """Work per second that is asked for, mean of the last minute."""
    need: float = 0.0
    """Hot capacity that the latest decision wants, in work per second."""
    hot: float = 0.0
    """Capacity of the workers that take requests now, in work per second."""
    coming: float = 0.0
    """Capacity of those that will and do not yet."""
    cold: float = 0.0
    """Capacity of those that are stopped and can be started."""
    waiting: int = 0
    """Requests that wait for a worker."""
    oldest_wait_s: float = 0.0
    p95_wait_s: float = 0.0
    """Of the last five minutes, counting those that had a worker at once."""
    looks: dict[str, int] = field(default_factory=dict)
    """How many workers are hot, loading, cold, draining, failed and gone."""
    usd_h: float = 0.0
    """US dollars per hour now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Row):
    """What keeps an endpoint from the capacity that it needs."""

    word: str
    """`cap.NAME`, `limit.max_workers`, `no_offer`, `quota`, `refused`, `crash_loop`, `starting`, `busy`, `suspended`,
    `stopped` or `blocked`."""
    title: str
    """The same in a few words, to follow the endpoint's name."""
    text: str
    """What is known of it, in a sentence."""
    said: str = ""
    """The last words of a worker that failed. They are a worker's: show them as text."""
    mends: bool = False
    """It passes by itself."""
    ready_in_s: float = 0.0
    """When a worker is expected, in seconds, as likely sooner as later; 0 where nobody can tell."""
    ready_from_s: float = 0.0
    ready_by_s: float = 0.0
    """Of starts like these nine in ten end between these; 0 where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History(Row):
    """What an endpoint was in the last hour, day, fortnight or year: a column for each figure, a row for each moment.

    A row has the mean of its time, of waits and of who waits the highest. Units: as of the figures of the same names.
    """

    step_s: float
    """Seconds between two rows; more where the server did not run."""
    at: list[float]
    load: list[float]
    need: list[float]
    hot: list[float]
    coming: list[float]
    cold: list[float]
    waiting: list[float]
    p95_wait_s: list[float]
    usd_h: list[float]
    looks: dict[str, list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened(Row):
    """One thing that happened to a worker."""

    at: float
    level: str
    title: str
    """The state that it came to, or what was decided; empty for a line of the log."""
    text: str
    state: str = ""
    """The state that it came to; empty where it kept its state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest(Row):
    """A request that is at a worker."""

    id: int
    work: float
    for_s: float
    seen: bool
    """The worker has said that it works on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance(Row):
    """What a worker did in the last half hour: a row for each moment."""

    at: list[float]
    counted: list[float]
    """Work per second that is counted on."""
    done: list[float]
    """Work per second that it did, as a mean that fades over some 20 s."""
    load: list[float]
    """Work that was at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPage(Row):
    """All that there is to know of one worker."""

    look: str
    """hot, loading, cold, draining, failed or gone."""
    label: str
    addresses: list[str]
    created_at: float
    since: float
    """When its present state began."""
    loaded_at: float
    """When it was first ready; 0 if never."""
    ready_usd_h: float
    """US dollars per hour while it serves; and while it is stopped."""
    stopped_usd_h: float
    can_rest: bool
    """Its provider can stop it and keep its disk."""
    can_restart: bool
    """Its provider can restart it where it is; else it is replaced."""
    usual_perf: float
    """Work per second of such workers, as learned; 0 if not yet."""
    usual_start_s: float
    """How long such a start takes, as learned."""
    requests: list[OpenRequest]
    """Those that have been there longest."""
    open_requests: int
    """How many are there in all."""
    performance: Performance
    story: list[Happened]
    """The latest first."""
