"""Whether the work of a worker that serves is worth moving to another provider: prices move, each provider's apart."""

import math
from collections import Counter

from posthouse.domain.decision import Obstacle, Reason
from posthouse.domain.lifecycle import COMING, Goal
from posthouse.domain.worker import Worker
from posthouse.policy.capacity import hot, known_perf, ready
from posthouse.policy.draft import Draft
from posthouse.policy.needs import Needs
from posthouse.policy.recruit import Candidate, Market, rent


def exchange(draft: Draft, needs: Needs) -> None:
    """Rents at another provider what does the work of the most expensive worker for less; that one then rests.

    One worker at a time, where nothing waits and nothing is on its way. It is worth it where it costs a tenth less per
    hour, with the time that it takes to be ready spread over an hour. What nobody has measured is not counted on.
    Within one provider it does not pay: decision 72.

    Example: a worker of 100 work/s costs $0.60 by now. Another one of 100 costs $0.40 and takes 120 s to be ready: it
    counts 0.40 x (1 + 120 / 3600) = $0.41, and with a tenth more $0.45.
    """
    s, serving = draft.s, ready(draft.all())
    busy = needs.urgent or draft.rentals or any(w.state in COMING or w.goal is Goal.UPDATED for w in draft.all())
    if busy or not serving or s.now < s.stabilized_at:
        return
    dearest = max(serving, key=lambda w: (draft.unit_usd_h(w), w.id))
    have = draft.supply(hot(draft.all()))
    missing = needs.hot.high - (have - draft.perf(dearest))
    if missing <= 0:  # it is going to rest anyway
        return
    best, cost = _cheapest(draft, missing, dearest.provider)
    factor = 1 + draft.tuning.tolerance
    if best is None or cost * factor >= dearest.price.running_usd_h:
        return
    if best.usd_h / best.perf * factor >= draft.unit_usd_h(dearest):  # it would be let go as it comes, see `replaces`
        return
    count = math.ceil(missing / best.perf)
    why = f"its work costs ${dearest.price.running_usd_h:.2f}/h, at {best.entry.offer.provider} ${cost:.2f}/h"
    obstacle = "max_workers leaves no room for both" if count > draft.budget else ""
    if not draft.affords(count * best.entry.offer.price.running_usd_h):
        obstacle = obstacle or draft.over_cap()
    if obstacle:
        draft.because.append(Obstacle("not replaced", int(dearest.id), f"{why}; {obstacle}"))
    else:
        draft.because.append(Reason("to be replaced", int(dearest.id), why))
        rent(draft, Goal.HOT, have + missing, 0, but=dearest.provider)


def replaces(draft: Draft, worker: Worker, serving: list[Worker]) -> bool:
    """Whether a worker on its way is there to do for less what one that serves elsewhere does."""
    most = max((draft.unit_usd_h(w) for w in serving if w.provider != worker.provider), default=0.0)
    return draft.unit_usd_h(worker) * (1 + draft.tuning.tolerance) < most


def _cheapest(draft: Draft, missing: float, but: str) -> tuple[Candidate | None, float]:
    """What does what is missing at the least cost, in whole workers, and that cost in $/h. `but`: as of `Market`."""
    market, known = Market(draft, but=but), draft.s.estimates
    found = [c for c in market.all() if not c.failed and not market.obstacle(c)]
    many = Counter[str]()
    for candidate in found:
        many[candidate.kind] += candidate.entry.offer.available
    found = [c for c in found if known_perf(c.kind, known) > 0 and many[c.kind] * c.perf >= missing]
    costs = [(math.ceil(missing / candidate.perf) * candidate.usd_h, candidate) for candidate in found]
    cost, best = min(costs, key=lambda pair: (pair[0], pair[1].key), default=(math.inf, None))
    return best, cost
