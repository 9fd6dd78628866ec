"""From a number of workers wanted ready to goals and rentals, the same for every rival."""

from dataclasses import replace

from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.plan import Decision, Memory, Reason, Rental, Snapshot
from posthouse.domain.worker import Worker, WorkerId
from posthouse.policy import recruit, retire
from posthouse.policy.capacity import hot, kept, ready, supply
from posthouse.policy.forecast import sliding_max

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
    goals = retire.failed(s.workers)
    team = _with(s.workers, goals)
    rentals: tuple[Rental, ...] = ()
    obstacles: list[Reason] = []
    # The counts alone decide, so nothing is looked for where they are right: a run has many thousands of ticks.
    crew = hot(team)
    if len(crew) < wanted:
        woken, _ = recruit.wake(s, team, 0.0, wanted, urgent=True)
        goals |= woken
        team = _with(team, woken)
        rentals, obstacles = recruit.rent(s, team, Goal.HOT, 0.0, wanted)
    elif len(crew) > wanted:
        surplus = sorted(crew, key=lambda w: _least_use_first(w, s))[: len(crew) - wanted]
        released = {w.id: Goal.COLD for w in surplus}
        goals |= released
        team = _with(team, released)
    there = len(kept(team))
    if there + len(rentals) < total:
        rentals += recruit.rent(s, team, Goal.COLD, 0.0, total, rentals)[0]
    if there > total or len(team) > scaling.max_workers:
        goals |= retire.discard(s, team, 0.0, total)
    return Decision(
        at=s.now,
        hot_need=float(wanted),
        hot_supply=supply(hot(team), s.estimates),
        ready_supply=supply(ready(team), s.estimates),
        goals={w.id: goals[w.id] for w in s.workers if goals.get(w.id, w.goal) is not w.goal} if goals else {},
        rentals=rentals,
        memory=Memory(total_needs=total_needs),
        because=(Reason("workers wanted ready", wanted, why), *obstacles),
    )


def _with(workers: tuple[Worker, ...], goals: dict[WorkerId, Goal]) -> tuple[Worker, ...]:
    if not goals:
        return workers
    return tuple(replace(w, goal=goals[w.id]) if w.id in goals else w for w in workers)


def _least_use_first(worker: Worker, s: Snapshot) -> tuple[bool, bool, int]:
    return worker.state is State.IDLE, worker.id in s.busy, -worker.id
