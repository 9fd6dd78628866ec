"""Which workers rest, and which are destroyed: outliers first, then the most expensive per unit of work."""

import math

from posthouse.domain.decision import Obstacle, Reason, Snapshot
from posthouse.domain.lifecycle import SERVING, Goal, State
from posthouse.domain.worker import Worker, WorkerId
from posthouse.policy.capacity import USABLE, hot, kept, ready
from posthouse.policy.draft import RUNS_ON, Draft, staying_usd_h, will_run
from posthouse.policy.exchange import replaces
from posthouse.policy.needs import Need, Needs
from posthouse.policy.rollout import is_canary
from posthouse.policy.tuning import TUNING, Tuning


def failed(draft: Draft) -> None:
    """Workers in ERROR go: they are replaced, not repaired."""
    for worker in list(draft.all()):
        if worker.state is State.ERROR and worker.goal is not Goal.GONE:
            draft.set(worker, Goal.GONE)


def within_cap(draft: Draft) -> None:
    """Releases what the cap no longer allows, as it was lowered or a price rose: the most expensive for their work.

    Workers that serve are kept before those that are starting, and both before cold ones. What is released drains, and
    is counted in full until then, so that nothing is rented for its money yet.
    """
    cap, over_usd_h = draft.cap, draft.committed_usd_h
    if cap is None or draft.affords(0.0):
        return
    left_usd_h = cap.usd_h * (1 + 1e-9)
    let_go: set[WorkerId] = set()
    for runs in (True, False):
        there = [w for w in draft.all() if (will_run(w) if runs else w.goal is Goal.COLD and not will_run(w))]
        there.sort(key=lambda w: (will_run(w) and w.state is State.IDLE, *_least_worth_first(draft, w)), reverse=True)
        for worker in there:
            usd_h = worker.price.running_usd_h if runs else worker.price.stopped_usd_h
            if usd_h <= left_usd_h:
                left_usd_h -= usd_h
            else:
                rests = runs and worker.capabilities.stop and worker.state in USABLE - RUNS_ON
                draft.set(worker, Goal.COLD if rests else Goal.GONE)
                let_go.add(worker.id)
    whose = f"let go: {', '.join(map(str, sorted(let_go)))}" if let_go else "some still drain"
    draft.because.append(Obstacle("cost per hour", over_usd_h, f"{cap.name} is exceeded; {whose}"))


def end_drains(draft: Draft) -> None:
    """Ends draining workers with their requests where no money is left: the most expensive first, no more than needed.

    What runs has its money for longer, see `within_cap`: so ending those that drain is always enough.
    """
    last = None if draft.s.cap is None else draft.s.cap.last
    if last is None:
        return
    drains = [w for w in draft.all() if w.state in SERVING and not will_run(w)]
    busy = [w for w in drains if w.id in draft.s.busy]
    over_usd_h = sum(map(staying_usd_h, draft.all())) - sum(staying_usd_h(w) for w in drains if w not in busy)
    over_usd_h -= last.usd_h * (1 + 1e-9)
    for worker in sorted(busy, key=lambda w: _least_worth_first(draft, w)):
        if over_usd_h > 0:
            draft.ended |= {worker.id}
            over_usd_h -= staying_usd_h(worker)
    if draft.ended:
        which = ", ".join(map(str, sorted(draft.ended)))
        rule = f"{last.name} has no money left for draining workers; ended with their requests: {which}"
        draft.because.append(Obstacle("drains", "ended", rule))


def release(draft: Draft, needs: Needs, released_at: float) -> bool:
    """Stops hot workers as long as the others can do the hot need; True if it stops one.

    Workers that are starting go first, if those that serve are enough; while they are needed none is stopped. A cheaper
    replacement is waited for, and surplus workers are stopped meanwhile. None is stopped while load is unknown after a
    restart, or sooner than `release_every_s` after the last. Where nothing is needed, all are stopped at once.
    """
    s, tuning = draft.s, draft.tuning
    if s.now < s.stabilized_at:
        return False
    there, need, stays_s = hot(draft.all()), needs.hot.high, last_stays_s(s, tuning)
    if need <= 0 < stays_s:
        draft.because.append(Reason("last hot worker", "stays", f"{stays_s:.0f} s more without a request"))
    count = max(needs.least, int(stays_s > 0))
    serving = ready(draft.all())
    coming = [w for w in there if w.state not in (State.IDLE, State.STOPPING) and not replaces(draft, w, serving)]
    going: list[Worker] = []
    if need <= 0 and count == 0:
        going = [w for w in there if not is_canary(draft, w)]  # it serves until it is judged, though nobody asks
    elif coming:
        going = coming if len(serving) >= count and draft.supply(serving) >= need else []
    elif s.now - released_at >= tuning.release_every_s:
        there = [w for w in there if w.state in (State.IDLE, State.STOPPING)]
        most = min(max(1, int(tuning.release_share * len(there))), len(there) - count)
        going = _surplus(draft, serving, draft.supply(there) - need)[: max(0, most)]
    for worker in going:
        draft.set(worker, Goal.COLD)
    return bool(going)


def discard(draft: Draft, need: Need, count: int) -> None:
    """Destroys stopped workers beyond the total need and beyond `count`, and whatever is beyond `max_workers`."""
    s, most = draft.s, draft.s.endpoint.scaling.max_workers - len(draft.aside)
    if s.now >= s.stabilized_at:
        there = kept(draft.all())
        surplus = draft.supply(there) - need.high if need.high > 0 else math.inf
        stopped = [w for w in there if w.goal is Goal.COLD and w.state is State.STOPPED]
        for worker in _surplus(draft, stopped, surplus)[: max(0, len(there) - count)]:
            draft.set(worker, Goal.GONE)
    left = [w for w in draft.all() if w.goal is not Goal.GONE]
    for worker in sorted(left, key=_least_use_first)[: max(0, len(left) - most)]:
        draft.set(worker, Goal.GONE)


def last_stays_s(s: Snapshot, tuning: Tuning = TUNING) -> float:
    """How much longer the last hot worker stays without a request; 0 where `inactivity_timeout` is given.

    Without it every request waits for a whole start, not only those beyond the others' capacity: so it is worth more
    than the others.
    """
    if s.endpoint.scaling.inactivity_timeout is not None:
        return 0.0
    stay_s = min(tuning.keep_alive_starts * s.estimates.start_s, tuning.reserve_s)
    return max(0.0, s.demand.last_request_at + stay_s - s.now)


def _surplus(draft: Draft, workers: list[Worker], surplus: float) -> list[Worker]:
    """Those that go: outliers first, then the most expensive per unit of work. None that does more than `surplus`."""
    going = []
    for worker in sorted(workers, key=lambda w: _least_worth_first(draft, w)):
        left = surplus - draft.perf(worker)
        if left >= 0:
            going.append(worker)
            surplus = left
    return going


def _least_worth_first(draft: Draft, worker: Worker) -> tuple[bool, float, bool, int]:
    return worker.id not in draft.s.outliers, -draft.unit_usd_h(worker), worker.id in draft.s.busy, -worker.id


def _least_use_first(worker: Worker) -> tuple[bool, bool, int]:
    return worker.state is State.IDLE, worker.goal is Goal.HOT, -worker.id
