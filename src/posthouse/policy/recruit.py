"""Which cold workers start serving, which offers are rented, and what is in the way."""

import math
from collections import Counter
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
            draft.because.append(Obstacle("not started", int(worker.id), draft.over_cap()))


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
    """Its machine failed recently, or at least half of its kind never came to be ready."""
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

    def why(self) -> str:
        """Why it was taken, for the explanation."""
        does = f"{self.perf:.0f} work/s" if self.perf < math.inf else "an unknown speed"
        rate = f"; {self.success_rate:.0%} of its kind come to be ready" if self.success_rate < 1 else ""
        start = f"; ready in {self.create_s:.0f} s" + (", for the machine has its files" if self.loaded else "")
        host = f"; counts {1 + self.held_against:.2g} times: its machine failed" if self.held_against >= 0.1 else ""
        failed = "; its machine or its kind failed, and no other is left" if self.failed else ""
        return f"${self.entry.offer.price.running_usd_h:.2f}/h for {does}{rate}{start}{host}{failed}"


class Market:
    """What an endpoint can rent from at one decision, and which of it comes first."""

    def __init__(self, draft: Draft, goal: Goal = Goal.HOT, but: str = "") -> None:
        """`but`: a provider whose offers do not count."""
        self._draft = draft
        rented = [r.offer for r in draft.rentals]
        self._rented = Counter((o.offer.provider, o.offer.id) for o in rented)
        self._coming = Counter(kind_of(w.group_id, w) for w in draft.all() if w.state in COMING)
        self._coming.update(kind_of(o.group_id, o.offer) for o in rented)
        self._trying = Counter(w.group_id for w in draft.all() if w.state in COMING)
        self._trying.update(o.group_id for o in rented)
        loaded = [w for w in kept(draft.all()) if w.loaded_at and w.state not in COMING]
        self._proven = Counter(w.group_id for w in loaded if not w.outdated_at)
        there = [w for w in draft.all() if w.goal is not Goal.GONE]
        self._places = Counter(p for w in there for p in _places(w.provider, w.zone, w.machine))
        self._places.update(p for o in rented for p in _places(o.offer.provider, o.offer.zone, o.offer.machine))
        self._groups = self._grouped(goal, but)

    def all(self) -> list[Candidate]:
        """Every offer that a worker could be rented from."""
        return [candidate for group in self._groups for candidate in group]

    def obstacle(self, candidate: Candidate) -> str:
        """Why an offer cannot be taken now; empty if it can.

        A workergroup that failed tries as many at a time as it has workers that came to be ready, at least one.
        """
        draft, group, offer = self._draft, candidate.entry.group_id, candidate.entry.offer
        if self._rented[candidate.key] >= offer.available:
            return TAKEN
        failures = draft.s.group_failures.get(group, Failures())
        fault = same_fault(failures, draft.tuning)
        if draft.s.now < group_resume_at(failures, draft.tuning):
            where = f", on {len(failures.machines)} machines: see what its template runs" if fault else ""
            return f"workergroup {group} failed {failures.count} times and waits before the next try{where}"
        at_once = 1 if fault else max(1, self._proven[group])
        if failures.count and self._trying[group] >= at_once:
            return f"workergroup {group} failed before and tries {at_once} at a time"
        return "" if draft.affords(offer.price.running_usd_h) else draft.over_cap()

    def rank(self, candidate: Candidate, missing: float) -> tuple[bool, float, float, tuple[str, str], int]:
        """Which comes first: one to be trusted, that covers what is `missing` at the least cost.

        An infinite `missing` asks for the cheapest per unit of work: cold workers are for loads that are not there yet.
        A kind of unknown speed counts its price times one more than there are of it starting, so that the first
        workers are of several kinds. And the loss of a machine or a zone should not take all workers: where all of
        them are on one machine, another one there counts `tolerance` more expensive.
        """
        if candidate.perf == math.inf:
            cost = candidate.usd_h * (1 + self._coming[candidate.kind])
        elif missing == math.inf:
            cost = candidate.usd_h / candidate.perf
        else:
            cost = cover_usd_h(candidate.usd_h, candidate.perf, missing)
        offer = candidate.entry.offer
        near = sum(self._places[place] for place in _places(offer.provider, offer.zone, offer.machine))
        crowd = self._draft.tuning.tolerance * near / (self._places.total() or 1)
        return candidate.failed, cost * (1 + crowd), candidate.usd_h, candidate.key, candidate.entry.group_id

    def take(self, missing: float, obstacles: set[str]) -> Candidate | None:
        """Takes what comes first; None if nothing is left. Adds what was in the way of others to `obstacles`."""
        for group in self._groups:
            while group and (text := self.obstacle(group[-1])):  # what is in the way now still is after a rental
                obstacles.add(text)
                group.pop()
        self._groups = [group for group in self._groups if group]
        if not self._groups:
            return None
        group = min(self._groups, key=lambda g: self.rank(g[-1], missing))
        best = group.pop()
        at = len(group)
        while at and group[at - 1].usd_h == best.usd_h:  # behind those of its price: the next one stands elsewhere
            at -= 1
        group.insert(at, best)
        offer = best.entry.offer
        self._rented[best.key] += 1
        self._coming[best.kind] += 1
        self._trying[best.entry.group_id] += 1
        self._places.update(_places(offer.provider, offer.zone, offer.machine))
        return best

    def _grouped(self, goal: Goal, but: str) -> list[list[Candidate]]:
        """The offers in groups that differ in their price and their machine alone, the best at the end."""
        there = Counter(w.machine for w in self._draft.all())
        groups: dict[tuple[bool, str, str], list[Candidate]] = {}
        for entry in self._draft.s.offers:
            rests = goal is Goal.HOT or entry.offer.capabilities.stop
            if rests and entry.offer.provider != but:
                found = _candidate(self._draft, entry, goal)
                groups.setdefault((found.failed, found.kind, entry.offer.zone), []).append(found)
        for group in groups.values():
            group.sort(key=lambda c: (c.usd_h, c.held_against, there[c.entry.offer.machine], c.key, c.entry.group_id))
            group.reverse()
        return list(groups.values())


def _candidate(draft: Draft, entry: GroupOffer, goal: Goal) -> Candidate:
    s, known, offer = draft.s, draft.s.estimates, entry.offer
    name = kind_of(entry.group_id, offer)
    success_rate = known.success_rate.get(name, 1.0)
    loaded = offer.keeps_files and (entry.group_id, offer.machine) in s.loaded_on
    create_s = known.create_s_of.get(name, known.create_s)
    create_s = min(create_s, known.start_s) if loaded else create_s
    held_against = s.held_against.get(offer.machine, 0.0)
    times = (1 + create_s / draft.tuning.reserve_s) * (1 + held_against) / success_rate
    usd_h = offer.price.running_usd_h * times + (offer.price.stopped_usd_h if goal is Goal.COLD else 0.0)
    failures = s.machine_failures.get(offer.machine)
    failed = s.now < machine_resume_at(failures, draft.tuning) or success_rate * 2 <= 1  # more fail than not
    perf = expected_perf(name, offer.price.running_usd_h, known)
    return Candidate(entry, name, perf, usd_h, success_rate, failed, held_against, create_s, loaded)


def _places(provider: str, zone: str, machine: str) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    """What workers have in common: a zone, a machine."""
    return (provider, zone, ""), (provider, "", machine)


def ranked(s: Snapshot, tuning: Tuning = TUNING) -> list[tuple[Candidate, str]]:
    """What a hot worker could be rented from, the cheapest per unit of work first, and what is in the way of each."""
    market = Market(Draft.of(s, tuning))
    found = sorted(market.all(), key=lambda candidate: market.rank(candidate, math.inf))
    return [(candidate, market.obstacle(candidate)) for candidate in found]


def rent(draft: Draft, goal: Goal, need: float, count: int, but: str = "") -> None:
    """Rents workers until there is capacity for `need` and there are `count`: hot ones, or with COLD, hot and cold.

    Bounded by `max_workers`, by money, by what is offered, but for the provider `but`, and by the back-off of
    workergroups that failed.
    """
    there = hot(draft.all()) if goal is Goal.HOT else kept(draft.all())
    have, many, rented = draft.supply(there) + draft.rented_perf, len(there) + len(draft.rentals), 0
    if have >= need and many >= count:
        return
    market, obstacles = Market(draft, goal, but), set[str]()
    while have < need or many < count:
        if draft.budget <= 0:
            most = draft.s.endpoint.scaling.max_workers
            obstacles = {f"max_workers {most} is reached{f', below cold_workers {count}' if count > most else ''}"}
            break
        best = market.take(need - have if goal is Goal.HOT else math.inf, obstacles)
        if best is None:
            break
        draft.add(Rental(best.entry, goal), best.perf)
        offer = best.entry.offer
        draft.because.append(Reason(f"{goal} worker", f"{offer.num_gpus}x {offer.gpu_name}", best.why()))
        have, many, rented = have + best.perf, many + 1, rented + 1
    if have < need or many < count:
        nothing = "no offer keeps the disk of a stopped worker" if draft.s.offers else "no workergroup has an offer"
        why_not = min(obstacles - {TAKEN} or obstacles, default=nothing)
        draft.because.append(Obstacle(f"no more {goal} workers", rented, why_not))
