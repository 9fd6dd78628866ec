"""From a number of workers wanted ready to goals and rentals, the same for every rival."""

from posthouse.domain.decision import Decision, Memory, Reason, Snapshot
from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.worker import Worker
from posthouse.policy import release
from posthouse.policy.capacity import hot, kept, ready
from posthouse.policy.draft import Draft
from posthouse.policy.forecast import sliding_max
from posthouse.policy.needs import Need, Needs
from posthouse.policy.recruit import rent, wake
from posthouse.policy.tuning import TUNING

NOTHING = Need(0.0, 0.0)

TOTAL_HOLD_S = 600.0
"""The stopped ones are kept this long after they were wanted last; as the shipped policy does."""


def in_flight(s: Snapshot) -> int:
    """Requests that wait or are at workers: what others call concurrency."""
    return s.demand.waiting_count + s.demand.outstanding_count


def ready_count(s: Snapshot) -> int:
    return len(ready(s.workers))


def hot_count(s: Snapshot) -> int:
    """Workers that are ready or on their way to it."""
    return len(hot(s.workers))


def apply_target(s: Snapshot, memory: Memory, wanted: int, why: str) -> Decision:
    """Wakes or rents until `wanted` workers are hot, lets the others rest, and keeps a pool of stopped ones.

    The pool is that of the endpoint's parameters: `cold_mult` x `wanted` workers in all, at least `cold_workers`.
    """
    scaling = s.endpoint.scaling
    wanted = max(0, min(wanted, scaling.max_workers))
    total_needs = sliding_max(memory.total_needs, s.now, max(wanted, scaling.cold_mult * wanted), TOTAL_HOLD_S)
    total = min(scaling.max_workers, max(scaling.cold_workers, round(total_needs[0][1])))
    draft = Draft.of(s, TUNING)
    release.failed(draft)
    # The counts alone decide, so nothing is looked for where they are right: a run has many thousands of ticks.
    there = hot(draft.all())
    if len(there) < wanted:
        needs = Needs(NOTHING, NOTHING, NOTHING, wanted, urgent=True)
        wake(draft, needs)
        rent(draft, Goal.HOT, 0.0, wanted)
    for worker in sorted(there, key=lambda w: _least_use_first(w, s))[: max(0, len(there) - wanted)]:
        draft.set(worker, Goal.COLD)
    many = len(kept(draft.all()))
    if many + len(draft.rentals) < total:
        rent(draft, Goal.COLD, 0.0, total)
    if many > total or len(draft.workers) > scaling.max_workers:
        release.discard(draft, NOTHING, total)
    draft.because.insert(0, Reason("workers wanted ready", wanted, why))
    return Decision(
        at=s.now,
        hot_need=float(wanted),
        hot_supply=draft.supply(hot(draft.all())),
        ready_supply=draft.supply(ready(draft.all())),
        goals=draft.changes(),
        rentals=tuple(draft.rentals),
        memory=Memory(total_needs=total_needs),
        because=tuple(draft.because),
    )


def _least_use_first(worker: Worker, s: Snapshot) -> tuple[bool, bool, int]:
    return worker.state is State.IDLE, worker.id in s.busy, -worker.id
