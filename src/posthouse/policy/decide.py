"""What an endpoint should look like now, and why. Pure: the same snapshot and memory give the same decision."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from posthouse.domain.endpoint import EndpointState
from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.plan import Decision, Memory, Reason, Rental, Snapshot
from posthouse.domain.worker import Worker, WorkerId
from posthouse.policy import bounds, recruit, retire, rollout
from posthouse.policy.capacity import TOLERANCE, coming, enough, expected_wait_s, hot, hot_need, kept, ready, supply
from posthouse.policy.forecast import predicted_load, sliding_max, slow_mean

HOT_HOLD_S = 30.0
HOLD_STARTS, AUTO_HOLD_STARTS = 3.0, 5.0
"""A need is held at least `HOT_HOLD_S`, and for so many starts: what an idle worker costs in that time is one start,
and the waits that another would bring, at twice their price, in `auto` mode at four times. Any longer, and fixed ratios
cost more than a fleet of constant size. Source: the ski-rental problem, Karlin et al. 1988."""
AUTO_RESERVE = 2.0
"""In `auto` mode hot and cold workers together can do so many times what was needed while they are kept: machines fail
and loads step up. With 1.25 a step found nobody to wake, and a tenth of the work waited for workers to be created."""


def decide(s: Snapshot, memory: Memory) -> Decision:
    """Goals and rentals for one endpoint at `s.now`."""
    active = s.endpoint.state is EndpointState.ACTIVE
    goals = rollout.called_off(s.workers, active) | retire.failed(s.workers)
    if not active:
        return _stand_by(s, memory, goals)
    scaling, demand = s.endpoint.scaling, s.demand
    team = _with(s.workers, goals)

    # What is needed.
    ready_supply = supply(ready(team), s.estimates)
    stopped = any(w.state is State.STOPPED for w in kept(team))
    help_s = s.estimates.start_s if stopped else s.estimates.create_s
    expected = scaling, demand, predicted_load(demand), ready_supply, coming(team, s.estimates, s.now)
    need, because = hot_need(*expected, help_s)
    needed_new = hot_need(*expected, s.estimates.create_s)[0] if stopped else need
    least = bounds.least_hot(scaling, demand, s.now)
    if bounds.silent_long_enough(scaling, demand, s.now) and least == 0:
        need, memory = 0.0, Memory()
        because += (Reason("need", 0.0, f"no request for inactivity_timeout {scaling.inactivity_timeout:g} s"),)
    auto = scaling.slo_mode == "auto"
    hold_s = max(HOT_HOLD_S, s.estimates.start_s * (AUTO_HOLD_STARTS if auto else HOLD_STARTS))
    hot_needs = sliding_max(memory.hot_needs, s.now, need, hold_s)
    held = hot_needs[0][1]
    needed_new = min(held, needed_new)  # what is needed for less than a creation takes is not rented
    # Cold workers are for load that lasts: a backlog, and a spike, are over before a worker made for them is there.
    hour_rate = demand.rate if s.now < s.stabilized_at else slow_mean(memory.hour_rate, demand.rate, s.now - memory.at)
    lasting = min(need, max(min(demand.rate, demand.long_rate, hour_rate), scaling.min_load) / scaling.target_util)
    reserve = min(AUTO_RESERVE * held, scaling.cold_mult * lasting) if auto else scaling.cold_mult * lasting
    total = max(reserve, scaling.min_cold_load, needed_new)
    total_hold_s = retire.storage_s(team, s.estimates)
    total_needs = sliding_max(memory.total_needs, s.now, total, total_hold_s)
    held_total = total_needs[0][1]
    # What is enough: a worker is added where more is missing, and rests where it is there without it. A reserve keeps
    # half of what may be missing, for to make one anew is slow.
    enough_hot, enough_new = enough(scaling, held), enough(scaling, needed_new)
    enough_total = max(held_total * (1 - TOLERANCE), scaling.min_cold_load, enough_new)

    # Whose turn it is to be updated. Who waits for help counts as away already, so that help is looked for.
    fresh = rollout.inactive(s, team)
    team = _with(team, fresh)
    turns, waits = rollout.active(s, team, enough_hot, least)
    team = _with(team, turns | waits)

    # Who serves: wake who is there, then rent.
    urgent = demand.waiting > 0 or expected_wait_s(demand, ready_supply) > scaling.target_queue_time
    woken, not_woken = recruit.wake(s, team, held, least, urgent)
    team = _with(team, woken)
    hot_rentals, not_hot = recruit.rent(s, team, Goal.HOT, enough_new, least)
    cold_rentals, not_cold = recruit.rent(s, team, Goal.COLD, enough_total, scaling.cold_workers, hot_rentals)

    if waits and not hot_rentals and rollout.nobody_comes(s, team, waits):
        turns = waits

    # Who rests, and who goes.
    last_s = retire.last_stays_s(s)
    released = retire.release(s, team, enough_hot, max(least, int(last_s > 0)), memory.released_at)
    team = _with(team, released)
    discarded = retire.discard(s, team, (held_total + enough_total) / 2, scaling.cold_workers)

    goals |= woken | released | fresh | turns | discarded
    hot_supply = supply(hot(_with(team, discarded)), s.estimates)
    because += (
        Reason("hot need", held, f"highest need of the last {hold_s:.0f} s; {enough_hot:.4g} is enough"),
        Reason("need to rent for", needed_new, "of that, what is still needed when a new worker could be ready"),
        Reason("hot supply", _shown(hot_supply), "ready and coming workers, before rentals"),
        Reason("ready supply", _shown(ready_supply), "workers that take requests now"),
        Reason("least hot workers", least, "min_load, inactivity_timeout and open requests"),
        Reason("lasting need", lasting, "lowest mean of 60 s, 5 min and an hour, at least min_load, / target_util"),
        Reason(
            "total need",
            held_total,
            f"max({f'{AUTO_RESERVE:g} x hot need, at most ' if auto else ''}cold_mult {scaling.cold_mult:g} x lasting "
            f"need, min_cold_load, need to rent for), held {total_hold_s:.0f} s; {enough_total:.4g} is enough",
        ),
        *([Reason("last hot worker", "stays", f"{last_s:.0f} s more without a request")] if held <= 0 < last_s else ()),
        *rollout.progress(s, team, waits),
        *not_woken,
        *not_hot,
        *not_cold,
    )
    return Decision(
        at=s.now,
        hot_need=held,
        hot_supply=hot_supply,
        ready_supply=ready_supply,
        goals=_changes(s.workers, goals),
        rentals=hot_rentals + cold_rentals,
        memory=Memory(hot_needs, total_needs, s.now if released else memory.released_at, hour_rate, s.now),
        because=because,
    )


def _stand_by(s: Snapshot, memory: Memory, goals: dict[WorkerId, Goal]) -> Decision:
    """Suspended: every goal stays but a turn to be updated. Stopped: every worker becomes cold. Nothing is rented."""
    if s.endpoint.state is EndpointState.STOPPED:
        for worker in s.workers:
            if goals.get(worker.id, worker.goal) is not Goal.GONE:
                goals[worker.id] = Goal.GONE if worker.state is State.WANTED else Goal.COLD
    team = _with(s.workers, goals)
    no_rentals: tuple[Rental, ...] = ()
    return Decision(
        at=s.now,
        hot_need=0.0,
        hot_supply=supply(hot(team), s.estimates),
        ready_supply=supply(ready(team), s.estimates),
        goals=_changes(s.workers, goals),
        rentals=no_rentals,
        memory=memory,
        because=(Reason("endpoint state", str(s.endpoint.state), "only an active endpoint is scaled"),),
    )


def _with(workers: Iterable[Worker], goals: Mapping[WorkerId, Goal]) -> tuple[Worker, ...]:
    if not goals:
        return tuple(workers)
    return tuple(replace(w, goal=goals[w.id]) if w.id in goals else w for w in workers)


def _changes(workers: Iterable[Worker], goals: Mapping[WorkerId, Goal]) -> dict[WorkerId, Goal]:
    return {w.id: goals[w.id] for w in workers if w.id in goals and goals[w.id] is not w.goal}


def _shown(value: float) -> float | str:
    return value if math.isfinite(value) else "not measured yet"
