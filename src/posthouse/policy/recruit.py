"""Whom to take on: who is soonest where it is urgent, who is cheapest per unit of work where it is not."""

from collections import Counter
from collections.abc import Callable

from posthouse.domain.lifecycle import COMING, Goal, State
from posthouse.domain.offer import GroupOffer
from posthouse.domain.plan import Failures, Obstacle, Reason, Rental, Snapshot
from posthouse.domain.worker import Worker, WorkerId
from posthouse.domain.workergroup import WorkergroupId
from posthouse.policy.bounds import affordable, committed_usd_h, room, running_usd_h
from posthouse.policy.capacity import expected_perf, hot, kept, kind, perf_of, supply
from posthouse.policy.patience import machine_resume_at, resume_at


def wake(
    s: Snapshot, team: tuple[Worker, ...], need: float, count: int, urgent: bool
) -> tuple[dict[WorkerId, Goal], list[Reason]]:
    """New goals for cold workers, until those that are hot or coming can do `need` and are at least `count`.

    First those that need no start, then those on their way, then the stopped ones; but where it is urgent, those that
    load for the first time come last.
    """
    goals: dict[WorkerId, Goal] = {}
    reasons: list[Reason] = []
    crew = hot(team)
    have, many = supply(crew, s.learned), len(crew)
    if have >= need and many >= count:
        return {}, []
    committed = committed_usd_h(team)
    # Who rests, and who takes no requests while its update is at hand: that makes it hot as well.
    idle = [w for w in kept(team) if w.goal is Goal.COLD or (w.goal is Goal.FRESH and w.state is not State.IDLE)]
    candidates = [w for w in idle if w.id not in s.resting]
    for worker in sorted(candidates, key=_readiness(s, urgent)):
        if have >= need and many >= count:
            break
        extra_usd_h = max(0.0, running_usd_h(worker.price) - committed_usd_h([worker]))
        if not affordable(s.endpoint.scaling, committed, extra_usd_h):
            reasons.append(Obstacle("not started", int(worker.id), "max_usd_h would be passed"))
            continue
        goals[worker.id] = Goal.HOT
        have += perf_of(worker, s.learned)
        many += 1
        committed += extra_usd_h
    return goals, reasons


def rent(
    s: Snapshot, team: tuple[Worker, ...], goal: Goal, need: float, count: int, already: tuple[Rental, ...] = ()
) -> tuple[tuple[Rental, ...], list[Reason]]:
    """Rentals that bring the team to `need` and to `count` workers: hot ones for HOT, hot and cold together for COLD.

    `already`: what this decision rents anyway. Bounded by `max_workers`, by money, by what is offered, and by the
    back-off of workergroups that failed: those try one worker at a time.
    """
    crew = hot(team) if goal is Goal.HOT else kept(team)
    have = supply(crew, s.learned) + sum(_perf(r.offer, s) for r in already)
    many = len(crew) + len(already)
    if have >= need and many >= count:
        return (), []
    left = room(s.endpoint.scaling, team) - len(already)
    committed = committed_usd_h(team) + sum(running_usd_h(r.offer.offer.price) for r in already)
    taken = Counter(_place(r.offer) for r in already)
    trying = {w.group_id for w in team if w.state in COMING} | {r.group_id for r in already}
    rentals: list[Rental] = []
    obstacle = "no workergroup has an offer"
    ranked = sorted(s.offers, key=lambda o: _offer_rank(o, s)) if left > 0 else s.offers[:1]  # any will say why not
    for entry in ranked:
        failures = s.group_failures.get(entry.group_id, Failures())
        while have < need or many < count:
            if left <= 0:
                obstacle = f"max_workers {s.endpoint.scaling.max_workers} is reached"
            elif taken[_place(entry)] >= entry.offer.available:
                obstacle = "every offer is taken"
            elif s.now < resume_at(failures):
                obstacle = f"workergroup {entry.group_id} failed {failures.count} times and waits before the next try"
            elif failures.count and entry.group_id in trying:
                obstacle = f"workergroup {entry.group_id} failed before and tries one worker at a time"
            elif not affordable(s.endpoint.scaling, committed, running_usd_h(entry.offer.price)):
                obstacle = f"max_usd_h {s.endpoint.scaling.max_usd_h:g} would be passed"
            else:
                rentals.append(Rental(entry.group_id, entry, goal))
                have += _perf(entry, s)
                many += 1
                left -= 1
                committed += running_usd_h(entry.offer.price)
                taken[_place(entry)] += 1
                trying.add(entry.group_id)
                continue
            break
    short = have < need or many < count
    return tuple(rentals), [Obstacle(f"no more {goal} workers", len(rentals), obstacle)] if short else []


def _perf(entry: GroupOffer, s: Snapshot) -> float:
    return expected_perf(kind(entry.group_id, entry.offer.gpu_name, entry.offer.num_gpus), s.learned)


def _place(entry: GroupOffer) -> tuple[str, str]:
    """What two workergroups compete for, if both may have it."""
    return entry.offer.provider, entry.offer.id


def _offer_rank(entry: GroupOffer, s: Snapshot) -> tuple[bool, float, tuple[str, str], WorkergroupId]:
    """Trusted machines first, then dollars per unit of work, then by name, so that equal offers have an order."""
    perf = _perf(entry, s)
    price_usd_h = running_usd_h(entry.offer.price)
    failing = s.now < machine_resume_at(s.machine_failures.get(entry.offer.machine))
    return failing, price_usd_h / perf if perf < float("inf") else price_usd_h, _place(entry), entry.group_id


def _readiness(s: Snapshot, urgent: bool) -> Callable[[Worker], tuple[int, float, int]]:
    step = {State.IDLE: 0, State.STARTING: 1, State.STOPPED: 2, State.STOPPING: 3}
    loading = 4 if urgent else 1

    def rank(worker: Worker) -> tuple[int, float, int]:
        per_work = running_usd_h(worker.price) / perf_of(worker, s.learned)
        return step.get(worker.state, loading), worker.load_s if urgent else per_work, worker.id

    return rank
