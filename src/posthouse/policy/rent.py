"""Which workers are rented, and what is in the way."""

import math
from collections import Counter
from collections.abc import Callable

from posthouse.domain.decision import Failures, Obstacle, Reason, Rental
from posthouse.domain.lifecycle import COMING, Goal
from posthouse.domain.offer import GroupOffer
from posthouse.policy.backoff import group_resume_at, same_fault
from posthouse.policy.bounds import running_usd_h
from posthouse.policy.capacity import kind_of
from posthouse.policy.draft import Draft
from posthouse.policy.offers import candidates, offer_key, offer_kind, offer_perf, rank, why

TAKEN = "every offer is taken"


def rent(draft: Draft, goal: Goal, need: float, count: int) -> None:
    """Rents workers until there is capacity for `need` and there are `count`: hot ones, or with COLD, hot and cold.

    Bounded by `max_workers`, by money, by what is offered, and by the back-off of workergroups that failed.
    """
    there = draft.hot() if goal is Goal.HOT else draft.kept()
    have = draft.supply(there) + sum(offer_perf(r.offer, draft.s.estimates) for r in draft.rentals)
    many = len(there) + len(draft.rentals)
    if have >= need and many >= count:
        return
    in_the_way, groups = _in_the_way(draft), candidates(draft, goal)
    coming = [kind_of(w) for w in draft.all() if w.state in COMING]
    obstacles: set[str] = set()
    rented = 0
    while have < need or many < count:
        if draft.budget <= 0:
            obstacles = {f"max_workers {draft.s.endpoint.scaling.max_workers} is reached"}
            break
        for group in groups:
            while group and (text := in_the_way(group[-1].entry)):  # what is in the way now still is after a rental
                obstacles.add(text)
                group.pop()
        kinds = Counter([*coming, *(offer_kind(r.offer) for r in draft.rentals)])
        best = min(
            (group[-1] for group in groups if group),
            key=lambda c: rank(c, need - have if goal is Goal.HOT else math.inf, kinds[offer_kind(c.entry)]),
            default=None,
        )
        if best is None:
            break
        draft.add(Rental(best.entry.group_id, best.entry, goal))
        offer = best.entry.offer
        draft.because.append(Reason(f"{goal} worker", f"{offer.num_gpus}x {offer.gpu_name}", why(best)))
        have, many, rented = have + best.perf, many + 1, rented + 1
    if have < need or many < count:
        nothing = "no offer keeps the disk of a stopped worker" if draft.s.offers else "no workergroup has an offer"
        why_not = min(obstacles - {TAKEN} or obstacles, default=nothing)
        draft.because.append(Obstacle(f"no more {goal} workers", rented, why_not))


def _in_the_way(draft: Draft) -> Callable[[GroupOffer], str]:
    """Says of an offer why it cannot be taken now; empty if it can.

    A workergroup that failed tries as many at a time as it has workers that came to be ready, at least one.
    """
    s, tuning = draft.s, draft.tuning
    trying = Counter(w.group_id for w in draft.all() if w.state in COMING)
    proven = Counter(w.group_id for w in draft.kept() if w.loaded_at and w.state not in COMING and not w.outdated_at)

    def why_not(entry: GroupOffer) -> str:
        failures, group = s.group_failures.get(entry.group_id, Failures()), entry.group_id
        if sum(offer_key(r.offer) == offer_key(entry) for r in draft.rentals) >= entry.offer.available:
            return TAKEN
        fault = same_fault(failures, tuning)
        if s.now < group_resume_at(failures, tuning):
            where = f", on {len(failures.machines)} machines: see what its template runs" if fault else ""
            return f"workergroup {group} failed {failures.count} times and waits before the next try{where}"
        at_once = 1 if fault else max(1, proven[group])
        if failures.count and trying[group] + sum(r.group_id == group for r in draft.rentals) >= at_once:
            return f"workergroup {group} failed before and tries {at_once} at a time"
        if not draft.affords(running_usd_h(entry.offer.price)):
            return f"max_usd_h {s.endpoint.scaling.max_usd_h:g} would be passed"
        return ""

    return why_not
