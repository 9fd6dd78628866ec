"""Which requests are open, where, how much work they are, and who is held open until a worker is free."""

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from msgspec import Struct

from posthouse.domain.decision import Failures
from posthouse.domain.worker import WorkerId
from posthouse.fleet.events import Wish

ENDED_KEPT = 10_000
"""How many ended requests are remembered at least, and at most twice as many, so that one asked again goes elsewhere
than where it failed."""
SENT_S = 5.0
"""By then a client has sent its request to the worker that it got."""
HOLDS_APART_S = 0.05
"""Holds that end within this time end together."""

OnEnd = Callable[[float | None, float], None]
"""Called when a request ends: with the work that was done, None where nothing was, and the time."""
End = tuple[WorkerId, Mapping[WorkerId, Failures] | None, int]
"""Where a request was last; its failures before that; by how much its end has raised the failures of that worker."""


class Request(Struct, gc=False):
    """One logical request, however often it is asked for."""

    idx: int
    cost: float
    """Work that it counts now: never more than it may be, and less while its worker has not shown it."""
    first_at: float
    expires_at: float
    """When it is forgotten unless it is asked for again (waiting) or seen at its worker (assigned)."""
    announced: float = 0.0
    """Work that its client announced, in units of its own."""
    worker_id: WorkerId | None = None
    assigned_at: float = 0.0
    held_until: float = 0.0
    """It is held open; 0: it is not."""
    seen: bool = False
    """Its worker reported that it works on it."""
    alone: bool = False
    """Its worker had no other when it came."""
    unserved: bool = False
    """It is new, and never had a worker."""
    unproven: tuple[WorkerId, ...] = ()
    """Workers at which it failed by its client's word alone."""
    wish: Wish | None = None
    failures: Mapping[WorkerId, Failures] | None = None
    """Where it failed, if anywhere, how often and when last. Kept when it ends, for it may be asked for again."""


@dataclass(slots=True, eq=False, repr=False)
class AtWorker(dict[int, Request]):
    """The requests at one worker, and in one place, for none of it is cached, what else a request meets of it."""

    worker_id: WorkerId
    reqnum: int
    row: int = -1
    """In the routing table; -1: it takes no requests."""
    work: float = 0.0
    perf: float = 0.0
    slots: float = 1.0
    """How many requests it serves at a time where each goes as fast as alone."""
    held_back: float = 0.0
    """Work that counts beside: it is a canary that has had its share of requests."""
    mute: bool = False
    working: int = 0
    received: int = 0
    """On how many it last said that it works; where it is mute on which, how many it last said had come to it."""
    shown: int = 0
    shown_work: float = 0.0
    """How many it has reported that are not in its count yet; what was announced for them."""
    compared: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Work that was announced, what it counted for it, and for how many; fading."""
    units_s: deque[float] | None = None
    """What the latest that it did took for each unit of work."""

    def uncounted(self, came: int, now: float) -> list[Request]:
        """Its first requests, which must have ended: `came` did since it last said so."""
        came = max(came, self.working - sum(request.seen for request in self.values()))
        for request in self.values():
            if not request.seen and (came > 0 or request.assigned_at <= now - SENT_S):
                request.seen, came = True, came - 1
        seen = [request for request in self.values() if request.seen]
        return seen[: max(0, len(seen) - self.working)]


NOBODY: Final = AtWorker(WorkerId(0), 0)  # in place of a worker that has no requests


class Ledger:
    """Open requests, and the workers that they may be at."""

    def __init__(self, reqnum: int = 0) -> None:
        """`reqnum`: above those of all requests of an earlier life."""
        self.reqnum = reqnum
        self.workers: dict[WorkerId, AtWorker] = {}
        self.waiting: dict[int, Request] = {}
        self.at: dict[WorkerId, AtWorker] = {}
        """Workers that have requests."""
        self.line: list[Request] = []
        """Those of `waiting` that are held open; who was first asked for comes first."""
        self.next_end = math.inf
        """No hold ends before this."""
        self.open: dict[int, Request] = {}
        """Every one, wherever it is, by its index."""
        self.on_end: dict[int, OnEnd] = {}
        """What to call at the end of a request, by its index; few have one."""
        self._ended: dict[int, End] = {}
        self._ended_before: dict[int, End] = {}

    def __len__(self) -> int:
        return len(self.open)

    def worker(self, worker_id: WorkerId) -> AtWorker:
        if worker_id not in self.workers:
            self.workers[worker_id] = AtWorker(worker_id, self.reqnum)
        return self.workers[worker_id]

    def ended(self, idx: int) -> End | None:
        """How a request that has ended did so; None if that is not remembered."""
        return self._ended.get(idx) or self._ended_before.get(idx)

    def wait(self, request: Request) -> None:
        """Puts the request away from any worker; one that waits already stays where it is."""
        if request.idx not in self.waiting:
            self._take_out(request)
            self.open[request.idx] = self.waiting[request.idx] = request

    def hold(self, request: Request, until: float) -> None:
        """Holds a request that waits; one that is held already gets this end instead."""
        if not request.held_until:
            insort(self.line, request, key=_first)
        request.held_until = until
        self.next_end = min(self.next_end, until)

    def let_go(self, request: Request) -> None:
        if request.held_until:
            request.held_until = 0.0
            del self.line[bisect_left(self.line, _first(request), key=_first)]

    def over(self, now: float) -> list[int]:
        """Those that have been held long enough; they are no longer held."""
        if now < self.next_end:
            return []
        over = [r for r in self.line if r.held_until < now + HOLDS_APART_S]
        for request in over:
            self.let_go(request)
        self.next_end = min([r.held_until for r in self.line], default=math.inf)
        return [r.idx for r in over]

    def assign(self, request: Request, there: AtWorker, now: float) -> None:
        """Puts the request at a worker, away from wherever it was."""
        idx = request.idx
        if idx in self.open:
            self._take_out(request)
        request.worker_id, request.assigned_at, request.seen = there.worker_id, now, False
        request.alone = not there
        if request.alone:
            self.at[there.worker_id] = there
        self.open[idx] = there[idx] = request
        there.work += request.cost

    def remove(self, request: Request, counted: int = 0, now: float = 0.0) -> None:
        """Takes the request out, wherever it is; nothing if it is nowhere. `counted`: see `End`."""
        self._take_out(request, counted)
        if self.on_end and (tell := self.on_end.pop(request.idx, None)) is not None:
            tell(request.announced if request.seen else None, now)

    def _take_out(self, request: Request, counted: int = 0) -> None:
        idx, worker_id = request.idx, request.worker_id
        if self.open.pop(idx, None) is None:
            return
        if worker_id is None:
            self.let_go(request)
            del self.waiting[idx]
            return
        request.worker_id = None
        there = self.at[worker_id]
        del there[idx]
        there.work = max(0.0, there.work - request.cost)
        if not there:
            there.work = 0.0  # rounding must not leave phantom work
            del self.at[worker_id]
        self._ended[idx] = worker_id, request.failures, counted
        if len(self._ended) >= ENDED_KEPT:
            self._ended, self._ended_before = {}, self._ended

    def withdraw(self, request: Request) -> None:
        """Takes the request out as if it had never been anywhere."""
        self._take_out(request)
        for ended in (self._ended, self._ended_before):
            ended.pop(request.idx, None)

    def outstanding(self) -> float:
        """Work given to workers and not finished."""
        return sum([there.work for there in self.at.values()])

    def expired(self, now: float) -> list[Request]:
        return [r for r in self.open.values() if r.expires_at <= now]

    def validate(self) -> None:
        """Raises: AssertionError where something does not hold that always must."""
        for there in self.workers.values():
            said, true = there.work, math.fsum(r.cost for r in there.values())
            assert said >= 0, f"{said:g} work"
            assert math.isclose(said, true, rel_tol=1e-6, abs_tol=1e-6), f"{said:g} work, the requests are {true:g}"
            assert bool(there) == (there.worker_id in self.at), f"worker {there.worker_id} has {len(there)} requests"
        assert len(self) == len(self.waiting) + sum(map(len, self.at.values())), "a request has two places"
        assert all(r.worker_id is None for r in self.waiting.values()), "a request waits at a worker"
        assert self.line == sorted((r for r in self.waiting.values() if r.held_until), key=_first), "the line is wrong"


def _first(request: Request) -> tuple[float, int]:
    return request.first_at, request.idx
