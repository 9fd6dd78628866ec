"""What was asked of an endpoint and what became of it, kept so that it can be played again.

An append or two per request; the recorder cuts it into segments. Units: seconds, work, US
dollars.
"""

import zlib
from array import array
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posthouse.domain.lifecycle import BILLED_AS, UPDATING, Billing, Command, Event, Observation, State
from posthouse.domain.offer import SECONDS_PER_HOUR
from posthouse.domain.worker import Worker
from posthouse.fleet.events import Traffic
from posthouse.recording.segment import Segment

SEGMENT_S = 300.0
"""Length of a segment; the picture of what really happened is as coarse."""
REST_S = 86_400.0
"""Length of a segment in which there was nothing at all: between two of its requests 49 days fit."""
FULL = 50_000
"""Requests after which a segment is cut sooner."""
MAX_KEPT = 200_000
"""Requests kept in memory, 3 MB, where nobody cuts; the oldest are dropped, `DROPPED` at a time."""
DROPPED = MAX_KEPT // 10
TIMES_KEPT = 50
"""Of each kind of duration in a segment: of starts, of creations, of requests that had a worker for themselves."""
MAX_AMOUNT = 3e38
"""Of the four bytes in which an amount is stored."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Slice:
    """A piece of the traffic log, not packed yet."""

    since: float
    until: float
    requests: int
    at: "array[float]"
    work: "array[float]"
    waited_s: "array[float]"
    waited_work: "array[float]"
    figures: dict[str, Any]

    def pack(self) -> Segment:
        """The same as it is stored. Takes milliseconds, so not on the way of a request."""
        milliseconds = np.rint((np.array(self.at) - self.since) * 1000)
        asked = packed(np.diff(milliseconds, prepend=0.0), np.array(self.work))
        waited = packed(np.array(self.waited_s) * 1000, np.array(self.waited_work))
        return Segment(self.since, self.until, self.requests, asked, waited, self.figures)


@dataclass(slots=True)
class _Passed:
    """What the time of workers came to."""

    state_s: dict[State, float] = field(default_factory=dict)
    usd: float = 0.0
    usd_by: dict[str, float] = field(default_factory=lambda: {"ready": 0.0, "loading": 0.0, "stopped": 0.0})
    """The same, of workers that were ready, stopped, and in any other state."""
    ready_work: float = 0.0
    """What ready workers could have done."""

    def add(self, worker: Worker, since: float, now: float) -> None:
        """Adds a worker's time in its state, from `since` on."""
        span_s = max(0.0, now - max(since, worker.since))
        self.state_s[worker.state] = self.state_s.get(worker.state, 0.0) + span_s
        self.pay(worker.state, worker.usd_h() * span_s / SECONDS_PER_HOUR)
        self.ready_work += worker.perf * span_s if worker.state is State.IDLE else 0.0

    def pay(self, state: State, usd: float) -> None:
        """Adds what a worker in a state cost; below 0: what was counted of it and is not billed."""
        stopped = BILLED_AS[state] is Billing.STOPPED
        self.usd += usd
        self.usd_by["ready" if state is State.IDLE else "stopped" if stopped else "loading"] += usd


class TrafficLog(Traffic):
    """What has happened since it was last cut."""

    def __init__(self, now: float, workers: int = 0) -> None:
        """`workers`: how many there are."""
        self._since, self._workers = now, workers
        self._begin()

    def _begin(self) -> None:
        self._at, self._work = array("d"), array("d")
        self._waited_s, self._waited_work = array("d"), array("d")
        self._unserved, self._unserved_work, self._dropped = 0, 0.0, 0
        self._passed = _Passed()
        self._served: deque[tuple[float, float]] = deque(maxlen=TIMES_KEPT)
        self._given: Counter[Command] = Counter()
        self._start_s: deque[float] = deque(maxlen=TIMES_KEPT)
        self._create_s: deque[float] = deque(maxlen=TIMES_KEPT)

    # -- on the way of a request ---------------------------------------------------------------------------------------

    def asked(self, work: float, now: float) -> None:
        """A new request."""
        self._at.append(now)
        self._work.append(work)
        if len(self._at) > MAX_KEPT:
            del self._at[:DROPPED], self._work[:DROPPED]
            self._dropped += DROPPED

    def waited(self, wait_s: float, work: float) -> None:
        """A request was given its first worker, later than it came."""
        self._waited_s.append(wait_s)
        self._waited_work.append(work)
        if len(self._waited_s) > MAX_KEPT:
            del self._waited_s[:DROPPED], self._waited_work[:DROPPED]

    def gave_up(self, work: float) -> None:
        """A request went away before it was given a worker."""
        self._unserved += 1
        self._unserved_work += work

    def served(self, work: float, took_s: float) -> None:
        """A request was answered by a worker that had no other when it came."""
        self._served.append((work, took_s))

    # -- otherwise -----------------------------------------------------------------------------------------------------

    def moved(self, before: Worker, after: Worker, why: Event, now: float) -> None:
        """A worker changed its state."""
        self._passed.add(before, self._since, now)
        self._passed.pay(before.state, after.spent_usd - before.spent_at(now))  # of one that was offline until it went
        if isinstance(why, Command):
            self._given[why] += 1
        elif why is Observation.REPORTED_READY and before.state is State.STARTING:
            self._start_s.append(after.load_s)
        elif why is Observation.REPORTED_READY and before.state not in UPDATING and not before.loaded_at:
            self._create_s.append(after.load_s)

    @property
    def since(self) -> float:
        """When it was last drained, or began."""
        return self._since

    def counted(self) -> "tuple[float, int, array[float]]":
        """Since when it counts, how many requests came, and how long each waited that did: to look at."""
        return self._since, len(self._at) + self._dropped, self._waited_s

    def due(self, now: float, workers: Collection[Worker]) -> bool:
        """True if it is long enough to be cut, or has lasted for long enough."""
        age_s = now - self._since
        return len(self._at) >= FULL or age_s >= (REST_S if self.blank and not workers else SEGMENT_S)

    @property
    def blank(self) -> bool:
        """True if nothing happened."""
        return not (self._at or self._passed.state_s or self._waited_s or self._given)

    def drain(self, now: float, workers: Collection[Worker]) -> Slice:
        """What it has, which it no longer has then. `workers`: those that there are now."""
        piece = self.seen(now, workers)
        self._since, self._workers = max(self._since, now), len(workers)
        self._begin()
        return piece

    def copy(self, now: float, workers: Collection[Worker]) -> Slice:
        """What it has, to look at."""
        piece = self.seen(now, workers)
        arrays = (piece.at[:], piece.work[:], piece.waited_s[:], piece.waited_work[:])
        return Slice(piece.since, piece.until, piece.requests, *arrays, piece.figures)

    def seen(self, now: float, workers: Collection[Worker]) -> Slice:
        """What it has, and goes on filling."""
        passed = _Passed({**self._passed.state_s}, self._passed.usd, {**self._passed.usd_by}, self._passed.ready_work)
        for worker in workers:
            passed.add(worker, self._since, now)
        figures = {
            "workers": self._workers,  # at its beginning
            "state_s": {str(state): round(spent_s, 3) for state, spent_s in passed.state_s.items()},
            "usd": passed.usd,
            "usd_by": passed.usd_by,
            "ready_work": round(passed.ready_work, 3),
            "given": {str(command): count for command, count in self._given.items()},
            "unserved": self._unserved,
            "unserved_work": self._unserved_work,
            "start_s": [round(s, 3) for s in self._start_s],
            "create_s": [round(s, 3) for s in self._create_s],
            "served": [[work, round(took_s, 4)] for work, took_s in self._served],
        }
        requests = len(self._at) + self._dropped
        arrays = (self._at, self._work, self._waited_s, self._waited_work)
        return Slice(self._since, max(self._since, now), requests, *arrays, figures)


def packed(milliseconds: Numbers, work: Numbers) -> bytes:
    """Pairs in as few bytes as is easy: whole milliseconds and work, four bytes each, byte by byte, deflated."""
    columns = np.clip(np.rint(milliseconds), 0, 2**32 - 1).astype("<u4"), np.minimum(work, MAX_AMOUNT).astype("<f4")
    return zlib.compress(b"".join(c.view(np.uint8).reshape(-1, 4).T.tobytes() for c in columns), 6)


def unpacked(data: bytes) -> tuple[Numbers, Numbers]:
    """(milliseconds, work) of `packed`. Raises: ValueError for anything else."""
    try:
        flat = np.frombuffer(zlib.decompress(data), np.uint8)
    except zlib.error as error:
        raise ValueError(f"not a segment: {error}") from None
    planes = flat.reshape(2, 4, -1)
    milliseconds, work = (np.ascontiguousarray(plane.T).reshape(-1) for plane in planes)
    return milliseconds.view("<u4").astype(np.float64), work.view("<f4").astype(np.float64)
