"""How much capacity is needed. Units: work per second, unless a name says otherwise."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from posthouse.domain.decision import Memory, Reason
from posthouse.domain.demand import Demand
from posthouse.domain.endpoint import Scaling
from posthouse.domain.lifecycle import State
from posthouse.policy import capacity
from posthouse.policy.draft import Draft
from posthouse.policy.forecast import predicted_load, sliding_max
from posthouse.policy.headroom import slots_for
from posthouse.policy.tuning import Tuning


class Need(NamedTuple):
    """Capacity that is wanted: below `low` workers are added, above `high` they go."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Needs:
    """The three needs of an endpoint."""

    hot: Need
    """Of workers that serve."""
    rent: Need
    """Of those, what is still needed when a new worker could be ready."""
    total: Need
    """Of hot and cold workers together."""
    least: int
    """Of hot workers, whatever the load."""
    urgent: bool
    """Requests wait, or will for too long."""

    def with_help(self, perf: float) -> "Needs":
        """The needs while others must step in for a worker that serves and can do `perf`."""
        hot, rent = (Need(need.low + perf, need.high + perf) for need in (self.hot, self.rent))
        return replace(self, hot=hot, rent=rent, least=self.least + 1)


def least_hot(scaling: Scaling, demand: Demand, now: float) -> int:
    """How many workers must be hot, whatever the load: 1 or 0.

    `min_load` above 0 keeps one, so does a negative `inactivity_timeout`, so does a positive one that has not passed.
    """
    timeout_s, open_work = scaling.inactivity_timeout or 0.0, demand.waiting > 0 or demand.outstanding > 0
    waits_for_timeout = timeout_s > 0 and now - demand.last_request_at < timeout_s
    return int(scaling.min_load > 0 or timeout_s < 0 or waits_for_timeout or open_work)


def expected_wait_s(demand: Demand, ready_supply: float) -> float:
    """What a request that comes now will wait: for the work before it; as long as the oldest where nobody is ready.

    The oldest's wait counts only then: once a first worker is ready it tells of the past, and one request that waited
    for a start would have a second worker made.
    """
    if ready_supply <= 0:
        return demand.oldest_wait_s
    return (demand.waiting + demand.queued) / ready_supply


def left_open(
    demand: Demand, load: float, ready_supply: float, arrivals: Iterable[tuple[float, float]], help_s: float
) -> float:
    """Work that will be waiting when help could be there, in `help_s`, if none is sent for.

    What waits now and what comes until then, less what those that serve, and those on their way from their arrival on,
    can do. Exact where work flows evenly: capacity only grows until then, so that a queue that is empty stays empty.
    """
    left = demand.waiting + demand.queued + (load - ready_supply) * help_s
    return max(0.0, left - sum((help_s - eta_s) * perf for eta_s, perf in arrivals if eta_s < help_s))


def need_for_load(scaling: Scaling, demand: Demand, load: float, tuning: Tuning) -> Reason:
    """The capacity that `load` takes while nothing waits.

    `auto`: at most `waiting_share` of requests shall wait longer than half of `target_queue_time`, so that the other
    half is left for what no mean foretells.
    """
    floor = max(load, scaling.min_load)
    fixed = floor / scaling.target_util
    if scaling.slo_mode == "fixed" or not (demand.outstanding_count and demand.outstanding and demand.service_s):
        rule = f"max(load, min_load {scaling.min_load:g}) / target_util {scaling.target_util:g}"
        return Reason("need for load", fixed, rule)
    slot = demand.outstanding / demand.outstanding_count / demand.service_s
    cost = demand.cost or demand.outstanding / demand.outstanding_count
    burstiness = min(max(1.0, demand.variance / (floor * cost)), tuning.max_burstiness) if floor else 1.0
    service_s = cost / slot / 2  # of the mean request; a unit of work belongs to one of about twice its size
    max_wait = scaling.target_queue_time / 2 / service_s
    need = slot * slots_for(floor / slot, max_wait, burstiness, tuning.waiting_share)
    rule = f"{tuning.waiting_share:.0%} wait over target_queue_time / 2; bursts {burstiness:.1f} times those of chance"
    return Reason("need for load", max(need, fixed), rule)


class HotNeed(NamedTuple):
    """Hot capacity that is needed at a moment."""

    asked: float
    """What the load and the backlog take, without headroom."""
    need: float
    because: tuple[Reason, ...]
    """Each rule that had a say; the largest wins."""


def hot_need(
    scaling: Scaling,
    demand: Demand,
    load: float,
    ready_supply: float,
    arrivals: Iterable[tuple[float, float]],
    help_s: float,
    tuning: Tuning,
) -> HotNeed:
    """Hot capacity wanted. `arrivals`: as of `coming`. `help_s`: seconds until more capacity could be ready."""
    asked, for_load = max(load, scaling.min_load), need_for_load(scaling, demand, load, tuning)
    need = float(for_load.value)
    because = [
        Reason("load", load, f"mean of 5 min; of 60 s and {demand.recent_s:.0f} s what chance does not explain"),
        for_load,
    ]
    base = min(load, demand.rate)  # a burst, too, is over before help is there
    left = left_open(demand, base, ready_supply, arrivals, help_s)
    # Who would come only after the queue is gone is not sent for: to wait is quicker.
    if left > 0 and (demand.waiting > 0 or expected_wait_s(demand, ready_supply) > scaling.target_queue_time):
        # As much as is asked for, and what drains the queue in the time that help takes, or target_queue_time more: a
        # worker that is needed for less than it takes to come is not worth its start.
        backlog = base + left / (help_s + scaling.target_queue_time)
        rule = f"mean of 60 s + work still open in {help_s:.0f} s, {left:.0f} / ({help_s:.0f} s + target_queue_time)"
        because.append(Reason("need for backlog", backlog, rule))
        asked, need = max(asked, backlog), max(need, backlog)
    return HotNeed(asked, need, tuple(because))


def needs_of(draft: Draft, memory: Memory) -> tuple[Needs, Memory]:
    """The needs at this moment, and what is remembered of them. Says why in the draft."""
    s, tuning, scaling, demand = draft.s, draft.tuning, draft.s.endpoint.scaling, draft.s.demand
    load, ready_supply = predicted_load(demand, tuning), draft.supply(capacity.ready(draft.all()))
    arrivals = capacity.coming(draft.all(), s.estimates, s.now)

    def needed(help_s: float) -> HotNeed:
        return hot_need(scaling, demand, load, ready_supply, arrivals, help_s, tuning)

    def tolerant(high: float, floor: float) -> Need:
        return Need(max(high * (1 - tuning.tolerance), min(high, floor)), high)

    stopped = any(w.state is State.STOPPED for w in capacity.kept(draft.all()))
    asked, now_needed, because = needed(s.estimates.start_s if stopped else s.estimates.create_s)
    least = least_hot(scaling, demand, s.now)
    if least == 0 and (scaling.inactivity_timeout or 0.0) > 0:  # it has passed
        asked, now_needed, memory = 0.0, 0.0, Memory()
        because += (Reason("need", 0.0, f"no request for inactivity_timeout {scaling.inactivity_timeout:g} s"),)
    hold_s = tuning.hold_starts * max(s.estimates.start_s, tuning.recent_s)
    hot_needs = sliding_max(memory.hot_needs, s.now, now_needed, hold_s)
    hot = tolerant(hot_needs[0][1], asked)
    later = needed(s.estimates.create_s)
    rent = tolerant(min(hot.high, later.need), later.asked)
    # Cold workers are for load that lasts: a backlog, and a spike, are over before a worker made for them is there.
    hour_rate = demand.rate
    if s.now >= s.stabilized_at:  # exponentially weighted: no more than this number is remembered
        new_share = 1 - math.exp((memory.at - s.now) / tuning.reserve_s)
        hour_rate = memory.hour_rate + (demand.rate - memory.hour_rate) * new_share
    lasting = max(min(demand.rate, demand.long_rate, hour_rate), scaling.min_load) / scaling.target_util
    reserve = max(scaling.cold_mult * min(now_needed, lasting), scaling.min_cold_load, rent.high)
    total_needs = sliding_max(memory.total_needs, s.now, reserve, tuning.reserve_s)
    total = tolerant(total_needs[0][1], max(scaling.min_cold_load, rent.low))
    if demand.factor != 1.0:
        rule = "work that workers count for each unit of cost that clients announce; 1 was expected"
        draft.because.append(Reason("cost factor", demand.factor, rule))
    draft.because += (
        *because,
        Reason("hot need", hot.high, f"highest need of the last {hold_s:.0f} s; workers start below {hot.low:.4g}"),
        Reason("need to rent for", rent.high, "of that, what is still needed when a new worker could be ready"),
        Reason("ready supply", capacity.shown(ready_supply), "workers that take requests now"),
        Reason("least hot workers", least, "min_load, inactivity_timeout and open requests"),
        Reason(
            "total need", total.high,
            f"highest of the last {tuning.reserve_s / 60:.0f} min of cold_mult {scaling.cold_mult:g} x what lasts, "
            f"{lasting:.4g}, min_cold_load and the need to rent for; cold ones are made below {total.low:.4g}",
        ),
    )  # fmt: skip
    urgent = demand.waiting > 0 or expected_wait_s(demand, ready_supply) > scaling.target_queue_time
    memory = replace(memory, hot_needs=hot_needs, total_needs=total_needs, hour_rate=hour_rate, at=s.now)
    return Needs(hot, rent, total, least, urgent), memory
