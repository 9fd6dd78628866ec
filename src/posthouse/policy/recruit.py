"""Which cold workers start serving, which offers are rented, and what is in the way."""

import math
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from posthouse.domain.decision import Failures, Obstacle, Reason, Rental, Snapshot
from posthouse.domain.lifecycle import COMING, Goal, State
from posthouse.domain.offer import GroupOffer, Offer
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
    """Of those like it until one is ready, with the time that it takes; of a cold one with its storage."""
    success_rate: float
    """Share of new workers of its kind that came to be ready."""
    failed: bool
    """Its machine failed lately, or at least half of its kind never came to be ready."""
    failures: int
    """How often its machine failed since a worker was ready there."""
    held_against: float
    """How many workers failed on its machine, the less the longer ago."""
    create_s: float
    """How long one takes to be ready there."""
    loaded: bool
    """Its machine has the files of a worker that was ready there."""

    @property
    def key(self) -> tuple[str, str]:
        """What two workergroups compete for, if both may have it."""
        return self.entry.offer.provider, self.entry.offer.id

    def rank(self, missing: float, coming: int, crowd: float = 0.0) -> tuple[bool, float, float, tuple[str, str], int]:
        """Which comes first: one to be trusted, that covers what is `missing` at the least cost.

        An infinite `missing` asks for the cheapest per unit of work: cold workers are for loads that are not there yet.
        Where nobody knows what it does, it counts as so many times as dear as there are `coming` of its kind, and once
        more: so that what is made first is of several kinds. `crowd`: how much dearer it counts, as a share, for the
        workers that stand where it does.
        """
        if self.perf == math.inf:
            cost = self.usd_h * (1 + coming)
        elif missing == math.inf:
            cost = self.usd_h / self.perf
        else:
            cost = cover_usd_h(self.usd_h, self.perf, missing)
        return self.failed, cost * (1 + crowd), self.usd_h, self.key, self.entry.group_id

    def why(self) -> str:
        """Why it was taken, for the explanation."""
        does = f"{self.perf:.0f} work/s" if self.perf < math.inf else "nobody knows what"
        rate = f"; {self.success_rate:.0%} of its kind come to be ready" if self.success_rate < 1 else ""
        start = f"; ready in {self.create_s:.0f} s" + (", for the machine has its files" if self.loaded else "")
        host = f"; counts {1 + self.held_against:.2g} times: its machine failed" if self.held_against >= 0.1 else ""
        failed = "; its machine or its kind failed, and no other is left" if self.failed else ""
        return f"{self.entry.offer.price.running_usd_h:g} $/h for {does}{rate}{start}{host}{failed}"


def _candidate(draft: Draft, entry: GroupOffer, goal: Goal) -> Candidate:
    s, known, offer = draft.s, draft.s.estimates, entry.offer
    name = kind_of(entry.group_id, offer)
    success_rate = known.success_rate.get(name, 1.0)
    loaded = offer.keeps_files and (entry.group_id, offer.machine) in s.hosts.loaded
    create_s = known.create_s_of.get(name, known.create_s)
    create_s = min(create_s, known.start_s) if loaded else create_s
    held_against = s.hosts.failures.get(offer.machine, 0.0)
    times = (1 + create_s / draft.tuning.reserve_s) * (1 + held_against) / success_rate
    usd_h = offer.price.running_usd_h * times + (offer.price.stopped_usd_h if goal is Goal.COLD else 0.0)
    failures = s.machine_failures.get(offer.machine, Failures())
    failed = s.now < machine_resume_at(failures, draft.tuning) or success_rate * 2 <= 1  # more fail than not
    perf = expected_perf(name, offer.price.running_usd_h, known)
    return Candidate(entry, name, perf, usd_h, success_rate, failed, failures.count, held_against, create_s, loaded)


def _candidates(draft: Draft, goal: Goal) -> list[list[Candidate]]:
    """The offers in groups that differ in their price and their machine alone, the best at the end."""
    there = Counter(w.machine for w in draft.all())
    groups: dict[tuple[bool, str, str], list[Candidate]] = {}
    for entry in draft.s.offers:
        if goal is Goal.HOT or entry.offer.capabilities.stop:  # else it could not rest
            found = _candidate(draft, entry, goal)
            groups.setdefault((found.failed, found.kind, entry.offer.zone), []).append(found)
    for group in groups.values():
        group.sort(
            key=lambda c: (c.usd_h, c.failures, there[c.entry.offer.machine], c.key, c.entry.group_id), reverse=True
        )
    return list(groups.values())


class _Crowd:
    """Where an endpoint's workers stand: what takes a machine or a zone away should not take all of them."""

    def __init__(self, draft: Draft) -> None:
        self._tolerance = draft.tuning.tolerance
        self._at: Counter[tuple[str, str, str]] = Counter()
        self._many = 0
        zones = {o.offer.machine: o.offer.zone for o in draft.s.offers} | {**draft.s.hosts.zones}
        for worker in draft.all():
            if worker.goal is not Goal.GONE:
                self._add(worker.provider, zones.get(worker.machine, ""), worker.machine)
        for rental in draft.rentals:
            self.add(rental.offer.offer)

    def add(self, offer: Offer) -> None:
        """Takes in a worker that will be there."""
        self._add(offer.provider, offer.zone, offer.machine)

    def share(self, offer: Offer) -> float:
        """How much dearer one more counts there, as a share: `tolerance` where all of them are on one machine.

        Half of it is for the machine, half for its zone at its provider.
        """
        places = (offer.provider, offer.zone, ""), (offer.provider, "", offer.machine)
        return self._tolerance * sum(self._at[place] for place in places) / (2 * self._many) if self._many else 0.0

    def _add(self, provider: str, zone: str, machine: str) -> None:
        self._many += 1
        self._at[provider, zone, ""] += 1
        self._at[provider, "", machine] += 1


def ranked(s: Snapshot, tuning: Tuning = TUNING) -> list[tuple[Candidate, str]]:
    """What a hot worker could be rented from, the cheapest per unit of work first, and what is in the way of each."""
    draft = Draft.of(s, tuning)
    in_the_way = _in_the_way(draft)
    crowd = _Crowd(draft)
    found = [candidate for group in _candidates(draft, Goal.HOT) for candidate in group]
    found.sort(key=lambda c: c.rank(math.inf, 0, crowd.share(c.entry.offer)))
    return [(candidate, in_the_way(candidate)) for candidate in found]


def open_candidates(draft: Draft) -> list[tuple[Candidate, int]]:
    """What a hot worker could be rented from now that did not fail, and how many of its kind there could be."""
    in_the_way, many = _in_the_way(draft), Counter[str]()
    found = [c for group in _candidates(draft, Goal.HOT) for c in group if not c.failed and not in_the_way(c)]
    for candidate in found:
        many[candidate.kind] += candidate.entry.offer.available
    return [(candidate, many[candidate.kind]) for candidate in found]


def rent(draft: Draft, goal: Goal, need: float, count: int) -> None:
    """Rents workers until there is capacity for `need` and there are `count`: hot ones, or with COLD, hot and cold.

    Bounded by `max_workers`, by money, by what is offered, and by the back-off of workergroups that failed.
    """
    there = hot(draft.all()) if goal is Goal.HOT else kept(draft.all())
    have = draft.supply(there) + draft.rented_perf
    many = len(there) + len(draft.rentals)
    if have >= need and many >= count:
        return
    in_the_way, groups, crowd = _in_the_way(draft), _candidates(draft, goal), _Crowd(draft)
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
        groups = [group for group in groups if group]
        if not groups:
            break
        group = min(groups, key=lambda g: g[-1].rank(missing, coming[g[-1].kind], crowd.share(g[-1].entry.offer)))
        best = _rotate(group)
        offer = best.entry.offer
        draft.add(Rental(best.entry, goal), best.perf)
        coming[best.kind] += 1
        crowd.add(offer)
        draft.because.append(Reason(f"{goal} worker", f"{offer.num_gpus}x {offer.gpu_name}", best.why()))
        have, many, rented = have + best.perf, many + 1, rented + 1
    if have < need or many < count:
        nothing = "no offer keeps the disk of a stopped worker" if draft.s.offers else "no workergroup has an offer"
        why_not = min(obstacles - {TAKEN} or obstacles, default=nothing)
        draft.because.append(Obstacle(f"no more {goal} workers", rented, why_not))


def _rotate(group: list[Candidate]) -> Candidate:
    """The best of a group, which goes behind those of its price: the next one stands elsewhere."""
    best = group.pop()
    at = len(group)
    while at and group[at - 1].usd_h == best.usd_h:
        at -= 1
    group.insert(at, best)
    return best


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
