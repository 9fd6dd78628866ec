"""Workers at which requests failed recently: outlier detection as in Envoy, with seconds in place of ejection.

And requests at which workers failed: one that several died of gets none any more.
"""

import math
from dataclasses import dataclass

from posthouse.domain.decision import Failures
from posthouse.domain.lifecycle import DEATHS, State
from posthouse.domain.worker import WorkerId
from posthouse.fleet.events import Level, Moved, Outbox
from posthouse.fleet.latest import Latest
from posthouse.fleet.ledger import Request
from posthouse.fleet.roster import Roster
from posthouse.policy.faults import penalty_s, resume_at
from posthouse.policy.tuning import TUNING

MAX_DEATHS = 2
"""So many workers may die while they have a request, and no more."""
DIED_KEPT_S = 90.0
"""Within this time a request failed at a worker that died of it: longer than one is silent before it counts as dead."""
MAX_DENIED = 1_000
"""How many requests that are given no worker any more are remembered, and as many dead workers."""
MAX_STREAK = 10
"""So many requests that ended well make up for any number that did not."""


@dataclass(slots=True)
class Streak:
    """Requests of a worker that did not end well, less those that did since."""

    since: float
    last_at: float = 0.0
    count: int = 0
    failed: int = 0
    """Of these, not of those whose client left."""


class Outliers(dict[WorkerId, Failures]):
    """What is held against each worker."""

    def __init__(self, lives: Roster, outbox: Outbox) -> None:
        super().__init__()
        self.streaks: dict[WorkerId, Streak] = {}
        """What has not been made up for, however long ago it was."""
        self._lives, self._outbox = lives, outbox
        self._good: tuple[WorkerId | None, float] = None, -math.inf
        self._good_elsewhere = -math.inf
        """Where and when a request ended well last, and when it did last at any other worker."""
        self._gave_up = Failures()
        self.denied: Latest[int, str] = Latest(MAX_DENIED)
        """Why a request is given no worker any more."""
        self._died: Latest[WorkerId, tuple[float, str]] = Latest(MAX_DENIED)  # when, and what was said of it

    def blame(self, request: Request, worker_id: WorkerId, now: float, why: str, reported: bool = False) -> int:
        """Holds a request's failure against its worker, unless it is already; returns how many failures that added.

        `reported`: by the worker itself, which is a proof.
        """
        if reported:
            self._add(worker_id, 1, now, 1)
        if request.failures and worker_id in request.failures:
            return 0
        self._lives.rollouts.ended(worker_id, failed=True)
        return self._count(worker_id, 1, now, f"request {request.idx} {why}")

    def client_left(self, worker_id: WorkerId, now: float) -> None:
        """Notes that a client left before its answer was whole: it may be the worker's fault, or not."""
        self._add(worker_id, 1, now)

    def ended_well(self, request: Request, worker_id: WorkerId, now: float) -> int:
        """Notes that a request ended well; returns by how many the worker's failures change, so -1 or 0.

        A success is not certain: workers call it one when their model answers with an error. So it takes back only one,
        and that not for good if the request is asked for again. Where it failed before, it was not to blame itself.
        """
        last_id, last_at = self._good
        if worker_id != last_id:
            self._good_elsewhere = last_at
        self._good = worker_id, now
        self._lives.rollouts.ended(worker_id, failed=False)
        for failed_at in request.unproven:
            self._add(failed_at, 1, now, 1)
        if worker_id in self.streaks:
            self._add(worker_id, -1, now, -1)
        return self._count(worker_id, -1, now) if worker_id in self else 0

    def useless(self, now: float) -> tuple[WorkerId, str] | None:
        """A worker at which nothing has ended well for a while though clients tried, and why it is given up; or None.

        One at a time, and each time with twice the pause: the next may meet the same fault. Where only clients left, as
        they do where answers take long, those of another worker must have been served meanwhile.
        """
        paused = now < resume_at(self._gave_up, TUNING.max_penalty_s, TUNING.long_backoff_s)
        for worker_id, streak in self.streaks.items() if not paused else ():
            last_id, last_at = self._good
            others = (self._good_elsewhere if worker_id == last_id else last_at) > streak.since
            tried = streak.failed >= TUNING.max_failures or (others and streak.count >= TUNING.max_failures)
            worker = self._lives.workers.get(worker_id)
            lasted_s = streak.last_at - streak.since
            if tried and lasted_s >= TUNING.max_penalty_s and worker is not None and worker.state is State.IDLE:
                before = self._gave_up.count if now - self._gave_up.last_at < 2 * TUNING.long_backoff_s else 0
                self._gave_up = Failures(before + 1, now)
                return worker_id, f"the last {streak.count} requests here did not end well, over {lasted_s:.0f} s"
        return None

    def moved(self, moved: Moved, now: float) -> None:
        if moved.before.state is State.IDLE and moved.why in DEATHS:
            self._died[moved.after.id] = now, moved.after.message or "it ended"

    def forget(self, worker_id: WorkerId) -> None:
        """The worker serves nothing any more."""
        self.pop(worker_id, None)
        self.streaks.pop(worker_id, None)
        self._lives.throughput.forget(worker_id)

    def may_kill(self, request: Request) -> bool:
        """True if it may have killed more than one: of those that are dead, and that were not heard of since."""
        failures, lives = request.failures or {}, self._lives
        ready = {i for i in failures if i in lives.workers and lives.workers[i].state is State.IDLE}
        silent = {i for i in ready if lives.reported_at(i) <= failures[i].last_at}
        return len(silent | (failures.keys() & self._died.keys())) > 1

    def deny(self, request: Request) -> str:
        """Why the request is given no worker any more, if enough died while they had it; else empty."""
        found = [(self._died[i], f) for i, f in (request.failures or {}).items() if i in self._died]
        died = [text for (at, text), f in found if abs(f.last_at - at) < DIED_KEPT_S]
        if len(died) < MAX_DEATHS:
            return ""
        why = f"it is given no worker any more, for {len(died)} died while they had it; the last one: {died[-1]}"
        self.denied[request.idx] = why
        return why

    def keep_away(self, request: Request, worker_id: WorkerId, now: float, counted: int = 0) -> None:
        """Keeps a request that is asked for again from where it failed. `counted`: what its end counted already."""
        known = request.failures or {}
        before = known.get(worker_id, Failures())
        request.failures = {**known, worker_id: Failures(before.count + 1, now)}
        if before.count == 0 and counted <= 0:  # nobody knows yet whether it was the worker's fault or the client's
            request.unproven += (worker_id,)
            self._lives.rollouts.ended(worker_id, failed=True)
        if counted < 0:
            self._add(worker_id, 1, now, 1)
        once = 1 if before.count == 0 else 0  # one request's many tries are one failure of the worker
        self._count(worker_id, once - counted, now, f"request {request.idx} failed here: it was asked for again")

    def fade(self, now: float) -> None:
        """Forgets what no longer counts."""
        held = self.penalties_s(now)
        for worker_id in [i for i in self if i not in held]:
            del self[worker_id]

    def penalties_s(self, now: float) -> dict[WorkerId, float]:
        """The penalty of each worker at which requests failed recently, in seconds."""
        return {i: s for i, f in self.items() if (s := penalty_s(f, self._lives.reported_at(i), now)) > 0}

    def _count(self, worker_id: WorkerId, count: int, now: float, why: str = "") -> int:
        worker = self._lives.workers.get(worker_id)
        if count == 0 or worker is None:
            return 0
        before = self.get(worker_id, Failures())
        after = min(before.count + count, TUNING.max_failures)
        if after <= 0:
            self.pop(worker_id, None)
        else:
            self[worker_id] = Failures(after, now if count > 0 else before.last_at)
        if before.count == 0 < count:
            self._outbox.say(Level.TRACE, f"{why}; others are preferred for a while", worker)
        return count

    def _add(self, worker_id: WorkerId, count: int, now: float, failed: int = 0) -> None:
        if worker_id not in self._lives.workers:
            return
        streak = self.streaks.setdefault(worker_id, Streak(now))
        streak.count = min(streak.count + count, MAX_STREAK)
        streak.failed = min(max(0, streak.failed + failed), MAX_STREAK)
        if count > 0:
            streak.last_at = now
        if streak.count <= 0:
            del self.streaks[worker_id]
