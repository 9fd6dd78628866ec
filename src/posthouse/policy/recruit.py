"""Whom to take on: who is soonest where it is urgent, who makes the work cheapest where it is not."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from posthouse.domain.lifecycle import COMING, Goal, State
from posthouse.domain.offer import GroupOffer
from posthouse.domain.plan import Failures, Obstacle, Reason, Rental, Snapshot
from posthouse.domain.worker import Worker, WorkerId
from posthouse.domain.workergroup import WorkergroupId
from posthouse.policy.backoff import group_resume_at, machine_resume_at, same_fault
from posthouse.policy.bounds import affordable, committed_usd_h, room, running_usd_h
from posthouse.policy.capacity import UNSURE, enough, hot, kept, kind, kind_of, perf_of, perf_on, supply
from posthouse.policy.retire import Sparing, exchange_usd_h

TRIAL_SHARE = 0.1
"""Largest share of the workers that are of kinds on trial, at least one worker."""
TAKEN = "every offer is taken"
EXCHANGE_EVERY_S = 600.0
"""How long every hot worker has served before one is exchanged: what is needed rises and falls by the minute."""
MIN_SUCCESS_RATE = 0.5
"""A kind of which at most this share comes to be ready is taken last, as a machine that failed."""


def wake(
    s: Snapshot, team: tuple[Worker, ...], need: float, count: int, urgent: bool
) -> tuple[dict[WorkerId, Goal], list[Reason]]:
    """New goals for cold workers, until those that are hot or coming can do enough for `need` and are at least `count`.

    First those that need no start, then those on their way, then the stopped ones; but where it is urgent, those that
    load for the first time come last.
    """
    goals: dict[WorkerId, Goal] = {}
    reasons: list[Reason] = []
    crew = hot(team)
    have, many = supply(crew, s.estimates), len(crew)
    least_supply = enough(s.endpoint.scaling, need)
    if have >= least_supply and many >= count:
        return ({}, []) if urgent else _exchange(s, team, crew, have - need)
    committed = committed_usd_h(team)
    # Who rests, and who takes no requests while its update is at hand: that makes it hot as well.
    idle = [w for w in kept(team) if w.goal is Goal.COLD or (w.goal is Goal.UPDATED and w.state is not State.IDLE)]
    candidates = [w for w in idle if w.id not in s.resting]
    while candidates and (have < least_supply or many < count):
        missing, sparing = least_supply - have, Sparing(s, crew)
        worker = min(candidates, key=lambda w: _readiness(w, s, sparing, missing, urgent))
        candidates.remove(worker)
        extra_usd_h = max(0.0, running_usd_h(worker.price) - committed_usd_h([worker]))
        if not affordable(s.endpoint.scaling, committed, extra_usd_h):
            reasons.append(Obstacle("not started", int(worker.id), "max_usd_h would be passed"))
            continue
        goals[worker.id] = Goal.HOT
        crew.append(worker)
        have += perf_of(worker, s.estimates)
        many += 1
        committed += extra_usd_h
    return goals, reasons


def _exchange(
    s: Snapshot, team: tuple[Worker, ...], crew: list[Worker], spare: float
) -> tuple[dict[WorkerId, Goal], list[Reason]]:
    """One stopped worker that starts so that dearer ones can rest, where that pays; they do once it is ready."""
    if (
        not crew
        or s.now < s.stabilized_at
        or any(w.state is not State.IDLE or s.now - w.since < EXCHANGE_EVERY_S for w in crew)
    ):
        return {}, []
    dearest_usd_h = max(running_usd_h(w.price) for w in crew)
    cheaper = [
        w
        for w in kept(team)
        if w.state is State.STOPPED
        and w.goal is Goal.COLD
        and w.id not in s.resting
        and running_usd_h(w.price) < dearest_usd_h
    ]
    if not cheaper:
        return {}, []
    sparing = Sparing(s, crew)
    if sparing(spare)[0]:
        return {}, []  # who is not needed at all goes first
    gains = {w: exchange_usd_h(w, s, sparing, spare) for w in cheaper}
    best = max(cheaper, key=lambda w: (gains[w], -w.id))
    if gains[best] <= 0 or not affordable(s.endpoint.scaling, committed_usd_h(team), running_usd_h(best.price)):
        return {}, []
    return {best.id: Goal.HOT}, [
        Reason("started", int(best.id), f"so that dearer ones can rest: {gains[best]:.2f} $/h")
    ]


def rent(
    s: Snapshot, team: tuple[Worker, ...], goal: Goal, need: float, count: int, already: tuple[Rental, ...] = ()
) -> tuple[tuple[Rental, ...], list[Reason]]:
    """Rentals that bring the team to `need` and to `count` workers: hot ones for HOT, hot and cold together for COLD.

    `already`: what this decision rents anyway. Bounded by `max_workers`, by money, by what is offered, and by the
    back-off of workergroups that failed: those try as many at a time as they have that came to be ready, at least one.
    """
    crew = hot(team) if goal is Goal.HOT else kept(team)
    have = supply(crew, s.estimates) + sum(_perf(r.offer, s) for r in already)
    many = len(crew) + len(already)
    if have >= need and many >= count:
        return (), []
    left = room(s.endpoint.scaling, team) - len(already)
    committed = committed_usd_h(team) + sum(running_usd_h(r.offer.offer.price) for r in already)
    taken = Counter(_place(r.offer) for r in already)
    trying = Counter([w.group_id for w in team if w.state in COMING] + [r.group_id for r in already])
    proven = Counter(w.group_id for w in kept(team) if w.loaded_at and w.state not in COMING and not w.outdated_at)
    on_their_way = [kind_of(w) for w in team if w.state in COMING] + [_kind(r.offer) for r in already]
    trials = Counter(name for name in on_their_way if name not in s.estimates.perf)
    most_trials = max(1, int(TRIAL_SHARE * len(kept(team))))
    rentals: list[Rental] = []
    reasons: list[Reason] = []

    def in_the_way(entry: GroupOffer) -> str:
        failures = s.group_failures.get(entry.group_id, Failures())
        if taken[_place(entry)] >= entry.offer.available:
            return TAKEN
        if s.now < group_resume_at(failures):
            where = f", on {len(failures.machines)} machines: see what its template runs" * same_fault(failures)
            return f"workergroup {entry.group_id} failed {failures.count} times and waits before the next try{where}"
        at_once = 1 if same_fault(failures) else max(1, proven[entry.group_id])
        if failures.count and trying[entry.group_id] >= at_once:
            return f"workergroup {entry.group_id} failed before and tries {at_once} at a time"
        if not affordable(s.endpoint.scaling, committed, running_usd_h(entry.offer.price)):
            return f"max_usd_h {s.endpoint.scaling.max_usd_h:g} would be passed"
        return ""

    sparing, lots = Sparing(s, crew), _lots(s, goal)
    obstacles: set[str] = set()
    while have < need or many < count:
        if left <= 0:
            obstacles = {f"max_workers {s.endpoint.scaling.max_workers} is reached"}
            break
        for lot in lots:
            while lot and (text := in_the_way(lot[-1].entry)):  # what is in the way now still is after a rental
                obstacles.add(text)
                lot.pop()
        lots = [lot for lot in lots if lot]
        if not lots:
            break
        wanted = _Wanted(goal, need, need - have, left, sparing, trials, trials.total() < most_trials)
        chosen = min((lot[-1] for lot in lots), key=lambda c: _rank(c, wanted))
        rentals.append(Rental(chosen.entry.group_id, chosen.entry, goal))
        reasons.append(_why(chosen, s, goal))
        have += chosen.perf
        many += 1
        left -= 1
        committed += running_usd_h(chosen.entry.offer.price)
        taken[_place(chosen.entry)] += 1
        trying[chosen.entry.group_id] += 1
        if not chosen.measured:
            trials[chosen.kind] += 1
    if have < need or many < count:
        why_not = min(obstacles - {TAKEN} or obstacles, default="no workergroup has an offer")
        reasons.append(Obstacle(f"no more {goal} workers", len(rentals), why_not))
    return tuple(rentals), reasons


class _Candidate(NamedTuple):
    """An offer, and what is thought of it."""

    entry: GroupOffer
    kind: str
    measured: bool
    """Whether performance is known of its kind."""
    perf: float
    """What is counted on."""
    usd_h: float
    """Of those like it, until one is ready; of a cold one with its storage."""
    failing: int
    """How much there is not to trust: its machine, its kind, or both."""


def _lots(s: Snapshot, goal: Goal) -> list[list[_Candidate]]:
    """The offers, those together that differ in their price alone, the cheapest at the end.

    Of equal ones those come first whose machine failed least since a worker was ready there: a model that does not load
    is waited for longer than a machine is distrusted.
    """

    def last(c: _Candidate) -> tuple[float, int, tuple[str, str], WorkergroupId]:
        failures = s.machine_failures.get(c.entry.offer.machine, Failures())
        return c.usd_h, failures.count, _place(c.entry), c.entry.group_id

    lots: dict[tuple[int, str, float], list[_Candidate]] = {}
    for entry in s.offers:
        if goal is Goal.COLD and not entry.offer.capabilities.stop:
            continue  # it could not rest
        name, price = _kind(entry), entry.offer.price
        success_rate = s.estimates.success_rate.get(name, 1.0)
        usd_h = running_usd_h(price) / success_rate + (price.stopped_usd_h if goal is Goal.COLD else 0.0)
        # Where all of a kind are bad, the machine that failed still comes after the others.
        failing = (s.now < machine_resume_at(s.machine_failures.get(entry.offer.machine))) + (
            success_rate <= MIN_SUCCESS_RATE
        )
        perf = _perf(entry, s)
        lot = lots.setdefault((failing, name, perf), [])
        lot.append(_Candidate(entry, name, name in s.estimates.perf, perf, usd_h, failing))
    for lot in lots.values():
        lot.sort(key=last, reverse=True)
    return list(lots.values())


class _Wanted(NamedTuple):
    """What the next rental is for."""

    goal: Goal
    need: float
    missing: float
    """The part of the need that nobody does. Units: work per second."""
    left: int
    """How many workers there is room for."""
    sparing: Sparing
    """Whom of the crew that does without."""
    trials: Mapping[str, int]
    """How many workers are on their way of kinds that were never measured."""
    may_try: bool
    """Whether there may be more of those."""


def added_usd_h(usd_h: float, perf: float, missing: float, sparing: Sparing) -> float:
    """What all comes to cost more per hour, if what is missing is done by workers that cost `usd_h` and do `perf`.

    Where one does less than is missing, as many as it takes. Where one does more, whom of the crew that spares: 50 more
    than 400 can do, of a small one that does 60 for $0.10, or of a large one that does 800 for $0.45 so that one for
    $0.40 can rest? The latter adds $0.05. Source: the greedy rule for covering, Wolsey 1982, with exchange.
    """
    if perf < missing:
        return usd_h * missing / perf
    return usd_h - sparing(perf - missing)[1]


def _perf(entry: GroupOffer, s: Snapshot) -> float:
    """What is counted on."""
    return perf_on(_kind(entry), entry.offer.machine, entry.offer.price, s.estimates)


def _kind(entry: GroupOffer) -> str:
    return kind(entry.group_id, entry.offer.gpu_name, entry.offer.num_gpus)


def _place(entry: GroupOffer) -> tuple[str, str]:
    """What two workergroups compete for, if both may have it."""
    return entry.offer.provider, entry.offer.id


def _rank(c: _Candidate, wanted: _Wanted) -> tuple[int, bool, float, float, tuple[str, str], WorkergroupId]:
    """Which offer is taken first.

    Those that can be trusted; then those large enough for the room that is left; then the cheapest: a hot worker by
    what it adds to the cost of all, a cold one, which is for loads that are not there yet, per unit of work. At last by
    name, so that equal offers have an order.

    A kind that was never measured is judged by what it does with luck, if few are on trial and it is not larger than
    the need; and as dearer the more of it are on their way. Source: optimism in the face of uncertainty, Lai and
    Robbins 1985.
    """
    usd_h, perf, small = c.usd_h, c.perf, False
    if not c.measured:
        usd_h *= UNSURE ** (2 * wanted.trials.get(c.kind, 0))
        perf *= UNSURE**2 if wanted.may_try and perf <= wanted.need else 1.0
    if wanted.goal is Goal.HOT:
        small = perf * wanted.left < wanted.missing
        cost = added_usd_h(usd_h, perf, wanted.missing, wanted.sparing)
    else:
        cost = usd_h / (perf if perf < math.inf else 1.0)
    return c.failing, small, cost, usd_h, _place(c.entry), c.entry.group_id


def _why(c: _Candidate, s: Snapshot, goal: Goal) -> Reason:
    """Why an offer was taken, as a line of the explanation."""
    offer = c.entry.offer
    does = f"{c.perf:.0f} work/s" if c.perf < math.inf else "nobody knows what"
    notes = [f"{running_usd_h(offer.price):g} $/h for {does}"]
    if not c.measured:
        notes.append("a kind on trial")
    if (success_rate := s.estimates.success_rate.get(c.kind, 1.0)) < 1.0:
        notes.append(f"{success_rate:.0%} of its kind come to be ready")
    if c.failing:
        notes.append("failed lately, and no other is left")
    return Reason(f"{goal} worker", f"{offer.num_gpus}x {offer.gpu_name}", "; ".join(notes))


_STEPS = {State.IDLE: 0, State.STARTING: 1, State.STOPPED: 2, State.STOPPING: 3}
_LOADING = 4
"""On its first way to ready, which takes longest."""


def _readiness(
    worker: Worker, s: Snapshot, sparing: Sparing, missing: float, urgent: bool
) -> tuple[int, float, float, int]:
    perf, step = perf_of(worker, s.estimates), _STEPS.get(worker.state, _LOADING)
    usd_h = running_usd_h(worker.price)
    if urgent:  # seconds times dollars: a little sooner is not worth a machine that costs many times as much
        return step, worker.load_s * usd_h * max(1.0, missing / perf), worker.load_s, worker.id
    return step, added_usd_h(usd_h, perf, missing, sparing), worker.load_s, worker.id
