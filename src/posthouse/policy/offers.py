"""Which offer is taken first."""

import math
from typing import NamedTuple

from posthouse.domain.decision import Failures
from posthouse.domain.estimates import Estimates
from posthouse.domain.lifecycle import Goal
from posthouse.domain.offer import GroupOffer
from posthouse.domain.workergroup import WorkergroupId
from posthouse.policy.backoff import machine_resume_at
from posthouse.policy.bounds import running_usd_h
from posthouse.policy.capacity import kind, perf_on
from posthouse.policy.draft import Draft


class Candidate(NamedTuple):
    """An offer, and what is thought of it."""

    entry: GroupOffer
    perf: float
    usd_h: float
    """Of those like it until one is ready; of a cold one with its storage."""
    success_rate: float
    """Share of new workers of its kind that came to be ready."""
    failed: bool
    """Its machine failed lately, or at least half of its kind never came to be ready."""
    failures: int
    """How often its machine failed since a worker was ready there."""


def offer_key(entry: GroupOffer) -> tuple[str, str]:
    """What two workergroups compete for, if both may have it."""
    return entry.offer.provider, entry.offer.id


def cover_usd_h(usd_h: float, perf: float, missing: float) -> float:
    """What it costs per hour to do what is `missing` with workers that cost `usd_h` and do `perf`: at least one.

    Example: 50 are missing. One that does 60 for $0.10 costs $0.10, one that does 400 for $0.40 costs $0.40; were 400
    missing, the former would cost $0.67. So the last worker is as small as will do.
    Source: the greedy rule for covering, Wolsey 1982.
    """
    return usd_h * max(1.0, missing / perf)


def offer_kind(entry: GroupOffer) -> str:
    """The kind of worker that it would be."""
    return kind(entry.group_id, entry.offer.gpu_name, entry.offer.num_gpus)


def offer_perf(entry: GroupOffer, estimates: Estimates) -> float:
    """Work per second that is counted on; infinite where nobody knows."""
    return perf_on(offer_kind(entry), entry.offer.machine, entry.offer.price, estimates)


def candidates(draft: Draft, goal: Goal) -> list[list[Candidate]]:
    """The offers in groups that differ in their price and their machine's failures alone, the best at the end."""
    s = draft.s
    groups: dict[tuple[bool, str, float], list[Candidate]] = {}
    for entry in s.offers:
        offer = entry.offer
        if goal is Goal.COLD and not offer.capabilities.stop:
            continue  # it could not rest
        name, perf = offer_kind(entry), offer_perf(entry, s.estimates)
        success_rate = s.estimates.success_rate.get(name, 1.0)
        usd_h = running_usd_h(offer.price) / success_rate + (offer.price.stopped_usd_h if goal is Goal.COLD else 0.0)
        failures = s.machine_failures.get(offer.machine, Failures())
        failed = s.now < machine_resume_at(failures, draft.tuning) or success_rate * 2 <= 1  # more fail than not
        candidate = Candidate(entry, perf, usd_h, success_rate, failed, failures.count)
        groups.setdefault((failed, name, perf), []).append(candidate)
    for group in groups.values():
        group.sort(key=lambda c: (c.usd_h, c.failures, *_name(c)), reverse=True)
    return list(groups.values())


def rank(
    candidate: Candidate, missing: float, coming: int
) -> tuple[bool, float, float, tuple[str, str], WorkergroupId]:
    """Which of the candidates comes first: one to be trusted, that covers what is missing at the least cost.

    An infinite `missing` asks for the cheapest per unit of work: cold workers are for loads that are not there yet.

    Where nobody knows what it does, it counts as so many times as dear as there are `coming` of its kind, and once
    more: so that what is made first is of several kinds.
    """
    if candidate.perf == math.inf:
        cost = candidate.usd_h * (1 + coming)
    elif missing == math.inf:
        cost = candidate.usd_h / candidate.perf
    else:
        cost = cover_usd_h(candidate.usd_h, candidate.perf, missing)
    return candidate.failed, cost, candidate.usd_h, *_name(candidate)


def why(candidate: Candidate) -> str:
    """Why it was taken, for the explanation."""
    does = f"{candidate.perf:.0f} work/s" if candidate.perf < math.inf else "nobody knows what"
    rate = f"; {candidate.success_rate:.0%} of its kind come to be ready" if candidate.success_rate < 1 else ""
    failed = "; its machine or its kind failed, and no other is left" if candidate.failed else ""
    return f"{running_usd_h(candidate.entry.offer.price):g} $/h for {does}{rate}{failed}"


def _name(candidate: Candidate) -> tuple[tuple[str, str], WorkergroupId]:
    return offer_key(candidate.entry), candidate.entry.group_id
