"""Which cold workers start serving, which offers are rented, and what is in the way."""

import math
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from posthouse.domain.decision import Failures, Obstacle, Reason, Rental, Snapshot
from posthouse.domain.lifecycle import COMING, Goal, State
from posthouse.domain.offer import GroupOffer
from posthouse.domain.worker import Worker
from posthouse.policy.capacity import expected_perf, hot, kept, kind_of
from posthouse.policy.draft import Draft
from posthouse.policy.faults import group_resume_at, machine_resume_at, same_fault
from posthouse.policy.needs import Needs
from posthouse.policy.tuning import TUNING, Tuning

_STEPS = {State.IDLE: 0, State.STARTING: 1, State.STOPPED: 2, State.STOPPING: 3}
TAKEN = "every offer is taken"


def cover_usd_h(usd_h: float, perf: float, missing: float) -> float:
    """What it costs per hour to do what is `missing` with workers that cost `usd_h` and do `perf`: at least one.

    Example: 50 are missing. One that does 60 for $0.10 costs $0.10, one that does 400 for $0.40 costs $0.40; were 400
    missing, the former would cost $0.67. So the last worker is as small as will do.
    Source: the greedy rule for covering, Wolsey 1982.
    """
    return usd_h * max(1.0, missing / perf)


def wake(draft: Draft, needs: Needs) -> None:
    """Makes cold workers hot until those that are hot or coming can do enough for the hot need.

    First those that need no start, then those on their way, then stopped ones, and last those that load for the first
    time; among equals the one that covers what is missing at the least cost. Where requests wait, least seconds to
    start x cost: a little sooner is not worth a machine that costs many times as much.
    """
    there = hot(draft.all())
    have, many = draft.supply(there), len(there)
    candidates: list[Worker] = []
    if have < needs.hot.low or many < needs.least:
        candidates = [w for w in kept(draft.all()) if w.goal is Goal.COLD and w.id not in draft.s.resting]

    def rank(worker: Worker) -> tuple[int, float, float, int]:
        cost = cover_usd_h(worker.price.running_usd_h, draft.perf(worker), needs.hot.low - have)
        wait_s = worker.load_s if needs.urgent else 1.0
        return _STEPS.get(worker.state, len(_STEPS)), cost * wait_s, worker.load_s, worker.id

    while candidates and (have < needs.hot.low or many < needs.least):
        worker = min(candidates, key=rank)
        candidates.remove(worker)
        if draft.affords_running(worker):
            draft.set(worker, Goal.HOT)
            have, many = have + draft.perf(worker), many + 1
        else:
            draft.because.append(Obstacle("not started", int(worker.id), over_cap(draft)))


def over_cap(draft: Draft) -> str:
    """Why something cannot be afforded."""
    return f"{'' if draft.cap is None else draft.cap.name} would be passed"


class Candidate(NamedTuple):
    """An offer, and what is thought of it."""

    entry: GroupOffer
    kind: str
    perf: float
    """Work per second that is counted on; infinite where nobody knows."""
    usd_h: float
    """Of those like it until one is ready; of a cold one with its storage."""
    success_rate: float
    """Share of new workers of its kind that came to be ready."""
    failed: bool
    """Its machine failed lately, or at least half of its kind never came to be ready."""
    failures: int
    """How often its machine failed since a worker was ready there."""

    @property
    def key(self) -> tuple[str, str]:
        """What two workergroups compete for, if both may have it."""
        return self.entry.offer.provider, self.entry.offer.id

    def rank(self, missing: float, coming: int) -> tuple[bool, float, float, tuple[str, str], int]:
        """Which comes first: one to be trusted, that covers what is `missing` at the least cost.

        An infinite `missing` asks for the cheapest per unit of work: cold workers are for loads that are not there yet.
        Where nobody knows what it does, it counts as so many times as dear as there are `coming` of its kind, and once
        more: so that what is made first is of several kinds.
        """
        if self.perf == math.inf:
            cost = self.usd_h * (1 + coming)
        elif missing == math.inf:
            cost = self.usd_h / self.perf
        else:
            cost = cover_usd_h(self.usd_h, self.perf, missing)
        return self.failed, cost, self.usd_h, self.key, self.entry.group_id

    def why(self) -> str:
        """Why it was taken, for the explanation."""
        does = f"{self.perf:.0f} work/s" if self.perf < math.inf else "nobody knows what"
        rate = f"; {self.success_rate:.0%} of its kind come to be ready" if self.success_rate < 1 else ""
        failed = "; its machine or its kind failed, and no other is left" if self.failed else ""
        return f"{self.entry.offer.price.running_usd_h:g} $/h for {does}{rate}{failed}"


def _candidate(draft: Draft, entry: GroupOffer, goal: Goal) -> Candidate:
    s, offer = draft.s, entry.offer
    name = kind_of(entry.group_id, offer)
    success_rate = s.estimates.success_rate.get(name, 1.0)
    usd_h = offer.price.running_usd_h / success_rate + (offer.price.stopped_usd_h if goal is Goal.COLD else 0.0)
    failures = s.machine_failures.get(offer.machine, Failures())
    failed = s.now < machine_resume_at(failures, draft.tuning) or success_rate * 2 <= 1  # more fail than not
    perf = expected_perf(name, offer.price.running_usd_h, s.estimates)
    return Candidate(entry, name, perf, usd_h, success_rate, failed, failures.count)


def _candidates(draft: Draft, goal: Goal) -> list[list[Candidate]]:
    """The offers in groups that differ in their price and their machine's failures alone, the best at the end."""
    groups: dict[tuple[bool, str], list[Candidate]] = {}
    for entry in draft.s.offers:
        if goal is Goal.HOT or entry.offer.capabilities.stop:  # else it could not rest
            found = _candidate(draft, entry, goal)
            groups.setdefault((found.failed, found.kind), []).append(found)
    for group in groups.values():
        group.sort(key=lambda c: (c.usd_h, c.failures, c.key, c.entry.group_id), reverse=True)
    return list(groups.values())


def ranked(s: Snapshot, tuning: Tuning = TUNING) -> list[tuple[Candidate, str]]:
    """What a hot worker could be rented from, the cheapest per unit of work first, and what is in the way of each."""
    draft = Draft.of(s, tuning)
    in_the_way = _in_the_way(draft)
    found = [candidate for group in _candidates(draft, Goal.HOT) for candidate in group]
    return [(candidate, in_the_way(candidate)) for candidate in sorted(found, key=lambda c: c.rank(math.inf, 0))]


def rent(draft: Draft, goal: Goal, need: float, count: int) -> None:
    """Rents workers until there is capacity for `need` and there are `count`: hot ones, or with COLD, hot and cold.

    Bounded by `max_workers`, by money, by what is offered, and by the back-off of workergroups that failed.
    """
    there = hot(draft.all()) if goal is Goal.HOT else kept(draft.all())
    have = draft.supply(there) + draft.rented_perf
    many = len(there) + len(draft.rentals)
    if have >= need and many >= count:
        return
    in_the_way, groups = _in_the_way(draft), _candidates(draft, goal)
    coming = Counter(kind_of(w.group_id, w) for w in draft.all() if w.state in COMING)
    coming.update(kind_of(r.offer.group_id, r.offer.offer) for r in draft.rentals)
    obstacles: set[str] = set()
    rented = 0
    while have < need or many < count:
        if draft.budget <= 0:
            most = draft.s.endpoint.scaling.max_workers
            obstacles = {f"max_workers {most} is reached{f', below cold_workers {count}' if count > most else ''}"}
            break
        for group in groups:
            while group and (text := in_the_way(group[-1])):  # what is in the way now still is after a rental
                obstacles.add(text)
                group.pop()
        missing = need - have if goal is Goal.HOT else math.inf
        tops = [group[-1] for group in groups if group]
        best = min(tops, key=lambda c: c.rank(missing, coming[c.kind]), default=None)
        if best is None:
            break
        draft.add(Rental(best.entry, goal), best.perf)
        coming[best.kind] += 1
        offer = best.entry.offer
        draft.because.append(Reason(f"{goal} worker", f"{offer.num_gpus}x {offer.gpu_name}", best.why()))
        have, many, rented = have + best.perf, many + 1, rented + 1
    if have < need or many < count:
        nothing = "no offer keeps the disk of a stopped worker" if draft.s.offers else "no workergroup has an offer"
        why_not = min(obstacles - {TAKEN} or obstacles, default=nothing)
        draft.because.append(Obstacle(f"no more {goal} workers", rented, why_not))


def _in_the_way(draft: Draft) -> Callable[[Candidate], str]:
    """Says of an offer why it cannot be taken now; empty if it can.

    A workergroup that failed tries as many at a time as it has workers that came to be ready, at least one.
    """
    s, tuning = draft.s, draft.tuning
    trying = Counter(w.group_id for w in draft.all() if w.state in COMING)
    loaded = [w for w in kept(draft.all()) if w.loaded_at and w.state not in COMING]
    proven = Counter(w.group_id for w in loaded if not w.outdated_at)

    def why_not(candidate: Candidate) -> str:
        group, offer = candidate.entry.group_id, candidate.entry.offer
        failures = s.group_failures.get(group, Failures())
        taken = sum((r.offer.offer.provider, r.offer.offer.id) == candidate.key for r in draft.rentals)
        if taken >= offer.available:
            return TAKEN
        fault = same_fault(failures, tuning)
        if s.now < group_resume_at(failures, tuning):
            where = f", on {len(failures.machines)} machines: see what its template runs" if fault else ""
            return f"workergroup {group} failed {failures.count} times and waits before the next try{where}"
        at_once = 1 if fault else max(1, proven[group])
        if failures.count and trying[group] + sum(r.offer.group_id == group for r in draft.rentals) >= at_once:
            return f"workergroup {group} failed before and tries {at_once} at a time"
        if not draft.affords(offer.price.running_usd_h):
            return over_cap(draft)
        return ""

    return why_not
