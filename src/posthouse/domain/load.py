"""What workers report and what clients ask for, normalised from every generation of the wire."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Report:
    """One status report of a worker. Units: work (a client's `cost`), work per second, seconds, GB."""

    max_perf: float | None = 0.0
    """The most it can do; 0 while it is not ready; None where this report does not speak of it."""
    error: str = ""
    url: str = ""
    version: str = ""
    scheme: str = ""
    """What its generation verifies: A4, A5, A5s or U."""
    working: frozenset[int] | None = None
    """The request indexes it works on; None where its generation does not say."""
    working_count: int = 0
    cur_load: float = 0.0
    """Work of all requests on it."""
    taken: float = 0.0
    """Work that it took on since its report before, where its generation tells that; 0 where it tells the rate."""
    taken_rate: float = 0.0
    """The same per second, where its generation tells that."""
    done: float = 0.0
    """Work that it finished since its report before, where its generation tells that; 0 where it tells a rate."""
    done_rate: float = 0.0
    """Work per second of its latest request, where its generation tells that."""
    disk_gb: float = 0.0
    """What its disk holds; 0 where its generation tells the growth alone."""
    disk_added_gb: float = 0.0
    """By how much that grew since its report before."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of one request, as its worker reports it."""

    request_idx: int
    success: bool
    status: str = ""
    session: bool = False
    """It was a session, which lasts as long as its client likes."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of an endpoint now.

    Units: rates in work per second, amounts in work, spans in seconds.
    """

    rate: float = 0.0
    """Offered work per second, mean of the last minute, each request counted once however often it is asked again."""
    long_rate: float = 0.0
    """The same over the last five minutes."""
    recent_rate: float = 0.0
    """The same over the last `recent_s`."""
    recent_s: float = 10.0
    """10 s, or as long as a request takes if that is more: that long it keeps its worker busy, whenever it came."""
    variance: float = 0.0
    """Of the work offered in ten seconds, for each of them, over four minutes until a minute ago; in work squared per
    second."""
    cost: float = 0.0
    """Work of the request that a unit of work belongs to, in the mean of the last five minutes; 0: unknown. Of requests
    of random sizes about twice the mean, for large ones bring more units."""
    waiting: float = 0.0
    """Work of requests that have no worker yet."""
    waiting_count: int = 0
    outstanding: float = 0.0
    """Work that workers have been given and not finished."""
    outstanding_count: int = 0
    queued: float = 0.0
    """The part of `outstanding` that is not in service yet."""
    service_s: float = 0.0
    """Seconds that a request takes at a worker that has no other, at the mean cost of those outstanding; 0: unknown."""
    oldest_wait_s: float = 0.0
    """Age of the request that has waited longest without a worker."""
    last_request_at: float = 0.0
    """When a request was last asked for, or ended."""


@dataclass(frozen=True, slots=True)
class Estimates:
    """What an endpoint has learned about its workers, by the kind of machine they run on."""

    perf: dict[str, float] = field(default_factory=dict)
    """Work per second by kind of machine."""
    perf_at: dict[str, float] = field(default_factory=dict)
    """The same of single machines, as `on_machine` names them: some are slower than others of their kind."""
    work_per_usd: dict[str, float] = field(default_factory=dict)
    """Work per second for each dollar per hour, by kind of machine; only of those that cost something."""
    success_rate: dict[str, float] = field(default_factory=dict)
    """Share of new workers that come to be ready, by kind of machine, where not all of them did lately."""
    start_s: float = 30.0
    """Seconds from stopped to ready."""
    create_s: float = 120.0
    """Seconds from nothing to ready."""
