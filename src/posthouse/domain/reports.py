"""What workers report, normalised from every generation of the wire."""

from msgspec import Struct


class Report(Struct, frozen=True, gc=False):
    """One status report of a worker. Units: work (a client's `cost`), work per second, seconds, GB."""

    max_perf: float | None = 0.0
    """The most it can do; 0 while it is not ready; None where this report does not speak of it."""
    error: str = ""
    url: str = ""
    version: str = ""
    scheme: str = ""
    """What its generation verifies: A4, A5, A5S or U."""
    working: frozenset[int] | None = None
    """The request indexes it works on; None where its generation does not say."""
    working_count: int = 0
    received: int | None = None
    """Requests that came since it began; None where its generation names those it works on, or does not say."""
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
    waits_for: str = ""
    progress: int | None = None
    loading_timeout_s: float = 0.0
    """What our agent alone tells while it loads: for what it waits, a count of signs of progress, its limit or 0."""
    rejected: float = 0.0
    """Work that it refused since its report before: it had too much, or took a signature for wrong."""
    adapters: tuple[str, ...] = ()
    """What to call each adapter that it holds; our agent alone tells."""


class Ended(Struct, frozen=True, gc=False):
    """The end of one request, as its worker reports it."""

    request_idx: int
    success: bool
    status: str = ""
    session: bool = False
    """It was a session, which lasts as long as its client likes."""
    certain: bool = False
    """A success that is one: other workers than ours also call it so when their model answers with an error."""
    work: float | None = None
    """What our agent counted in its answer; None where nobody did."""
