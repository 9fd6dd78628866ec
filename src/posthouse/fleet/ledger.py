"""Which requests are open, where, and how much work they are."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from posthouse.domain.decision import Failures
from posthouse.domain.worker import WorkerId

ENDED_KEPT = 10_000
"""How many ended requests are remembered at least, so that one asked again goes elsewhere than where it failed."""
FORGOTTEN = 1_000
"""So many at once. In one table for all, where each that ends drives out the oldest, Python makes the whole table anew
every few minutes: 600 kB, for which there is often no room left but at the end of the memory."""

End = tuple[WorkerId, Mapping[WorkerId, Failures], int]
"""Where a request was last; its failures before that; by how much its end has raised the failures of that worker."""

_NONE: Mapping[WorkerId, Failures] = MappingProxyType({})


@dataclass(slots=True)
class Request:
    """One logical request, however often it is asked for."""

    idx: int
    cost: float
    first_at: float
    expires_at: float
    """When it is forgotten unless it is asked for again (waiting) or seen at its worker (assigned)."""
    worker_id: WorkerId | None = None
    assigned_at: float = 0.0
    seen: bool = False
    """Its worker reported that it works on it."""
    alone: bool = False
    """Its worker had no other when it came."""
    guessed: bool = False
    """Its cost is a guess: it was begun before a restart, and only its worker has told of it."""
    unserved: bool = False
    """It is new, and never had a worker."""
    failures: Mapping[WorkerId, Failures] = field(default_factory=lambda: _NONE)
    """Where it failed, how often and when last. Kept when it ends, for it may be asked for again."""


class Ledger:
    """Open requests. Invariant: `work[w]` is the sum of costs in `at[w]`; `waiting_work` that of `waiting`."""

    def __init__(self) -> None:
        self.waiting: dict[int, Request] = {}
        self.at: dict[WorkerId, dict[int, Request]] = {}
        self.work: dict[WorkerId, float] = {}
        self.waiting_work = 0.0
        self._where: dict[int, Request] = {}
        self._expires_at = math.inf
        """No open request runs out before this."""
        self._oldest: Request | None = None
        self._ended: deque[dict[int, End]] = deque([{}], maxlen=ENDED_KEPT // FORGOTTEN + 1)

    def __len__(self) -> int:
        return len(self._where)

    def find(self, idx: int) -> Request | None:
        return self._where.get(idx)

    def ended(self, idx: int) -> End | None:
        """How a request that has ended did so; None if that is not remembered."""
        return next((part[idx] for part in reversed(self._ended) if idx in part), None)

    def wait(self, request: Request) -> None:
        """Puts the request at the end of the line, away from any worker; one that waits already keeps its place."""
        if request.idx in self.waiting:
            return
        self.remove(request)
        self._where[request.idx] = self.waiting[request.idx] = request
        self.keep(request, request.expires_at)
        self.waiting_work += request.cost
        if self._oldest is not None and request.first_at < self._oldest.first_at:
            self._oldest = request

    def assign(self, request: Request, worker_id: WorkerId, now: float) -> None:
        """Puts the request at a worker, away from wherever it was."""
        idx = request.idx
        if idx in self._where:
            self.remove(request)
        request.worker_id, request.assigned_at, request.seen = worker_id, now, False
        self._where[idx] = request
        self.keep(request, request.expires_at)
        there = self.at.get(worker_id)
        request.alone = there is None
        if there is None:
            self.at[worker_id] = {idx: request}
            self.work[worker_id] = request.cost
        else:
            there[idx] = request
            self.work[worker_id] += request.cost

    def weigh(self, request: Request, cost: float) -> None:
        """Puts what a request costs in the place of a guess."""
        if request.worker_id is None:
            self.waiting_work = max(0.0, self.waiting_work + cost - request.cost)
        else:
            self.work[request.worker_id] = max(0.0, self.work[request.worker_id] + cost - request.cost)
        request.cost, request.guessed = cost, False

    def remove(self, request: Request, counted: int = 0) -> None:
        """Takes the request out, wherever it is; nothing if it is nowhere. `counted`: see `End`."""
        if self._where.pop(request.idx, None) is None:
            return
        if request.worker_id is None:
            del self.waiting[request.idx]
            # Exactly zero at rest: rounding must not leave phantom work behind.
            self.waiting_work = max(0.0, self.waiting_work - request.cost) if self.waiting else 0.0
            return
        worker_id, request.worker_id = request.worker_id, None
        there = self.at[worker_id]
        del there[request.idx]
        if there:
            self.work[worker_id] = max(0.0, self.work[worker_id] - request.cost)
        else:
            del self.at[worker_id], self.work[worker_id]
        latest = self._ended[-1]
        latest[request.idx] = worker_id, request.failures, counted
        if len(latest) >= FORGOTTEN:
            self._ended.append({})

    def withdraw(self, request: Request) -> None:
        """Takes the request out as if it had never been anywhere."""
        self.remove(request)
        for part in self._ended:
            part.pop(request.idx, None)

    def outstanding(self) -> float:
        """Work given to workers and not finished."""
        return sum(self.work.values())

    def oldest_waiting_at(self) -> float | None:
        """When the request that has waited longest was first asked for. Looked for anew when that one is served."""
        oldest = self._oldest
        if oldest is None or self.waiting.get(oldest.idx) is not oldest:
            self._oldest = oldest = min(self.waiting.values(), key=lambda r: r.first_at, default=None)
        return oldest.first_at if oldest is not None else None

    def keep(self, request: Request, until: float) -> None:
        """Says when the request runs out."""
        request.expires_at = until
        if until < self._expires_at:
            self._expires_at = until

    def expired(self, now: float) -> list[Request]:
        """Requests whose time has run out. Looks at them only when one may have."""
        if now < self._expires_at:
            return []
        self._expires_at = min([r.expires_at for r in self._where.values()], default=math.inf)
        return [r for r in self._where.values() if r.expires_at <= now]

    def validate(self) -> None:
        """Raises: AssertionError where something does not hold that always must."""
        ledger = self
        work = {i: math.fsum(r.cost for r in at.values()) for i, at in ledger.at.items()}
        assert ledger.work.keys() == work.keys(), f"work at {set(ledger.work)}, requests at {set(work)}"
        for worker_id, true_work in work.items():
            said = ledger.work[worker_id]
            assert said >= 0, f"worker {worker_id} has {said:g} work"
            assert math.isclose(said, true_work, rel_tol=1e-6, abs_tol=1e-6), (
                f"worker {worker_id}: {said:g}, {true_work:g}"
            )
        said, waits = ledger.waiting_work, math.fsum(r.cost for r in ledger.waiting.values())
        assert math.isclose(said, waits, rel_tol=1e-6, abs_tol=1e-6), f"{said:g} waits, the requests are {waits:g}"
        assert len(ledger) == len(ledger.waiting) + sum(map(len, ledger.at.values())), "a request has two places"
        assert all(r.worker_id is None for r in ledger.waiting.values()), "a request waits at a worker"
