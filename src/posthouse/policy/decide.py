"""What an endpoint should look like now, and why. Pure: the same snapshot and memory give the same decision."""

from dataclasses import replace

from posthouse.domain.decision import Decision, Memory, Reason, Snapshot
from posthouse.domain.endpoint import EndpointState
from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.worker import WorkerId
from posthouse.policy import release, rollout
from posthouse.policy.capacity import hot, ready, shown
from posthouse.policy.draft import Draft
from posthouse.policy.exchange import exchange
from posthouse.policy.needs import needs_of
from posthouse.policy.recruit import rent, wake
from posthouse.policy.tuning import TUNING, Tuning


def decide(s: Snapshot, memory: Memory, tuning: Tuning = TUNING) -> Decision:
    """Goals and rentals for one endpoint at `s.now`."""
    draft, active = Draft.of(s, tuning), s.endpoint.state is EndpointState.ACTIVE
    rollout.call_off(draft, active)
    release.failed(draft)
    release.within_cap(draft)
    release.end_drains(draft)
    if not active:
        _stand_by(draft)
        return _decision(draft, memory, hot_need=0.0)

    rollout.set_canaries_aside(draft)
    needs, memory = needs_of(draft, memory)
    hot_need = needs.hot.high
    turns, needs_help = rollout.turns(draft, needs) if any(w.outdated_at for w in s.workers) else ([], None)
    if needs_help:
        needs = needs.with_help(draft.perf(needs_help))

    wake(draft, needs)
    rent(draft, Goal.HOT, needs.rent.low, needs.least)
    rent(draft, Goal.COLD, needs.total.low, s.endpoint.scaling.cold_workers)
    if s.now - memory.compared_at >= tuning.window_s:
        memory = replace(memory, compared_at=s.now)
        exchange(draft, needs)
    if release.release(draft, needs, memory.released_at):
        memory = replace(memory, released_at=s.now)
    release.discard(draft, needs.total, s.endpoint.scaling.cold_workers)

    rollout.begin(draft, turns, needs_help)
    rollout.progress(draft, needs_help)
    return _decision(draft, memory, hot_need)


def drains_ended(s: Snapshot) -> frozenset[WorkerId]:
    """Whose drain ends now, where nothing else is to be decided."""
    draft = Draft.of(s, TUNING)
    release.end_drains(draft)
    return draft.ended


def _stand_by(draft: Draft) -> None:
    """Suspended: every goal stays but a turn to be updated. Stopped: every worker becomes cold. Nothing is rented."""
    state = draft.s.endpoint.state
    draft.because.append(Reason("endpoint state", str(state), "only an active endpoint is scaled"))
    if state is EndpointState.STOPPED:
        for worker in list(draft.all()):
            if worker.goal is not Goal.GONE:
                draft.set(worker, Goal.GONE if worker.state is State.WANTED else Goal.COLD)


def _decision(draft: Draft, memory: Memory, hot_need: float) -> Decision:
    hot_supply, ready_supply = draft.supply(hot(draft.all())), draft.supply(ready(draft.all()))
    draft.because.append(Reason("hot supply", shown(hot_supply), "ready and coming workers, before rentals"))
    return Decision(
        at=draft.s.now,
        hot_need=hot_need,
        hot_supply=hot_supply,
        ready_supply=ready_supply,
        goals=draft.changes(),
        rentals=tuple(draft.rentals),
        memory=memory,
        because=tuple(draft.because),
        ended=draft.ended,
    )
