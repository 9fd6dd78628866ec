"""Whom to let go: suspected workers, then the dearest per unit of work, and never so that the rest could not do it."""

import math
from collections.abc import Iterable
from operator import itemgetter

from posthouse.domain.lifecycle import COMING, Goal, State
from posthouse.domain.load import Estimates
from posthouse.domain.plan import Snapshot
from posthouse.domain.worker import Worker, WorkerId
from posthouse.policy.bounds import running_usd_h
from posthouse.policy.capacity import hot, kept, perf_of, ready, supply

RELEASE_EVERY_S = 15.0
"""Between two releases of hot workers."""
RELEASE_SHARE = 0.2
"""Largest share of the hot workers in one release, at least one."""

MIN_GAIN = 0.25
"""Least share of what workers cost that is saved where one is started so that they can rest: a start costs too, and the
need may change."""

LAST_STAYS_STARTS = 20.0
"""How long the last hot worker stays after the last request: so many starts, ten minutes at 30 s each. While there
is none each request waits for a whole start, and not only those beyond what others can do, so it is worth more than
the others. As long as the usual fixed keep-alive: Shahrad et al., *Serverless in the Wild*, 2020."""

SHORTEST_STORAGE_S, MAX_STORAGE_S = 600.0, 3600.0
"""Bounds of how long a cold worker is kept that nobody needs: making one anew is slow whatever it costs, and what was
needed an hour ago says little."""


def storage_s(team: Iterable[Worker], estimates: Estimates) -> float:
    """How long what was needed in all is kept: until its storage has cost as much as making it anew would.

    Never more than twice what the best choice in hindsight costs. Source: the ski-rental problem, Karlin et al. 1988.
    """
    running = stored = 0.0
    for worker in team:
        running, stored = running + worker.price.loading_usd_h, stored + worker.price.stopped_usd_h
    if running == 0.0:
        return SHORTEST_STORAGE_S
    even_s = estimates.create_s * running / stored if stored else MAX_STORAGE_S
    return min(max(even_s, SHORTEST_STORAGE_S), MAX_STORAGE_S)


def last_stays_s(s: Snapshot) -> float:
    """How much longer the last hot worker stays without a request; 0 where `inactivity_timeout` is given."""
    if s.endpoint.scaling.inactivity_timeout is not None:
        return 0.0
    stay_s = min(LAST_STAYS_STARTS * s.estimates.start_s, MAX_STORAGE_S)
    return max(0.0, s.demand.last_request_at + stay_s - s.now)


def failed(workers: Iterable[Worker]) -> dict[WorkerId, Goal]:
    """Workers in ERROR go: they are replaced, not repaired."""
    return {w.id: Goal.GONE for w in workers if w.state is State.ERROR and w.goal is not Goal.GONE}


def release(s: Snapshot, team: tuple[Worker, ...], need: float, count: int, released_at: float) -> dict[WorkerId, Goal]:
    """Hot workers that become cold, so that the rest can still do `need` and are at least `count`.

    Help on its way goes first, if those that serve are enough and none of them can rest for it; while it is needed none
    rests. None during the calm after a restart, or sooner than `RELEASE_EVERY_S` after the last.
    With nothing needed all go at once: there is nobody left to disturb.
    """
    crew = hot(team)
    everything = need <= 0 and count == 0
    if s.now < s.stabilized_at:
        return {}
    coming = [w for w in crew if w.state in COMING or w.state is State.STOPPED]
    if coming and not everything:
        serving = ready(team)
        spare = supply(serving, s.estimates) - need
        if len(serving) < count or spare < 0:
            return {}
        sparing = Sparing(s, serving)
        return {w.id: Goal.COLD for w in coming if exchange_usd_h(w, s, sparing, spare) <= 0}
    if not everything and s.now - released_at < RELEASE_EVERY_S:
        return {}
    most = len(crew) if everything else max(1, int(RELEASE_SHARE * len(crew)))
    have, many = supply(crew, s.estimates), len(crew)
    if many <= count or not (everything or have > need):
        return {}
    going = sorted(crew, key=lambda w: _rank(w, s)) if everything else Sparing(s, ready(team))(have - need)[0]
    return {w.id: Goal.COLD for w in going[: min(most, many - count)]}


class Sparing:
    """Whom of a crew its rest could do without: suspected ones, then those that cost most.

    The better of two orders: the dearest per unit of work first, and the dearest first. Alone the former keeps a large
    worker for a small need, the latter many small ones for a large need; together they save at least half of what can
    be saved. Source: the knapsack problem, Martello and Toth, *Knapsack Problems*, 1990, section 2.4.
    """

    def __init__(self, s: Snapshot, crew: Iterable[Worker]) -> None:
        by_work = sorted(crew, key=lambda w: _rank(w, s))
        by_price = sorted(by_work, key=lambda w: (w.id not in s.outliers, -running_usd_h(w.price)))
        one_order = [w.id for w in by_work] == [w.id for w in by_price]
        orders = [by_work] if one_order else [by_work, by_price]
        self._orders = [[(w, perf_of(w, s.estimates), running_usd_h(w.price)) for w in order] for order in orders]

    def __call__(self, spare: float) -> tuple[list[Worker], float]:
        """Whom it could do without that has `spare` more work per second than it needs, and what they cost per hour."""
        return max((_pack(order, spare) for order in self._orders), key=itemgetter(1))  # the first of equals


def exchange_usd_h(worker: Worker, s: Snapshot, sparing: Sparing, spare: float) -> float:
    """What is saved per hour, if this worker serves as well and others rest for it; 0 where it is too little.

    `spare`: work per second that the others can do beyond what is needed.
    """
    usd_h = running_usd_h(worker.price)
    perf = perf_of(worker, s.estimates)
    saved_usd_h = sparing(spare + perf)[1] - sparing(spare)[1] if perf < math.inf else 0.0
    return saved_usd_h - usd_h if usd_h < saved_usd_h * (1 - MIN_GAIN) else 0.0


def _pack(workers: Iterable[tuple[Worker, float, float]], spare: float) -> tuple[list[Worker], float]:
    packed, saved_usd_h = [], 0.0
    for worker, perf, usd_h in workers:
        if perf <= spare:
            packed.append(worker)
            spare -= perf
            saved_usd_h += usd_h
    return packed, saved_usd_h


def discard(s: Snapshot, team: tuple[Worker, ...], need: float, count: int) -> dict[WorkerId, Goal]:
    """Workers that are destroyed: stopped ones beyond `need` and `count`, and whatever is beyond `max_workers`."""
    goals: dict[WorkerId, Goal] = {}
    crew = kept(team)
    have, many = supply(crew, s.estimates), len(crew)
    if s.now >= s.stabilized_at and many > count:
        stopped = [w for w in crew if w.goal is Goal.COLD and w.state is State.STOPPED]
        for worker in sorted(stopped, key=lambda w: _rank(w, s)):
            without = have - perf_of(worker, s.estimates) if many > 1 else 0.0
            if many > count and without >= need:
                goals[worker.id] = Goal.GONE
                have, many = without, many - 1
    surplus = len(team) - s.endpoint.scaling.max_workers - len(goals) - sum(w.goal is Goal.GONE for w in team)
    if surplus > 0:
        rest = sorted((w for w in team if w.goal is not Goal.GONE and w.id not in goals), key=_least_use_first)
        goals.update({w.id: Goal.GONE for w in rest[:surplus]})
    return goals


def _rank(worker: Worker, s: Snapshot) -> tuple[bool, float, bool, int]:
    usd_h = running_usd_h(worker.price) / perf_of(worker, s.estimates)
    return worker.id not in s.outliers, -usd_h, worker.id in s.busy, -worker.id


def _least_use_first(worker: Worker) -> tuple[bool, bool, int]:
    return worker.state is State.IDLE, worker.goal is Goal.HOT, -worker.id
