"""Rolling update: whose turn it is to run another version. A few at a time, while the rest can do the work.

First one, the canary, beside what the work needs. When `trial` finds no fault with it, workers that take no requests
come next, then those that serve. A turn that has begun is seen through: the worker gets no new requests, finishes what
it has, and is updated.
"""

from collections.abc import Iterable
from dataclasses import replace

from posthouse.domain.decision import Failures, Obstacle, Reason
from posthouse.domain.endpoint import WorkergroupId
from posthouse.domain.lifecycle import COMING, UPDATING, Goal, State, goal_beyond_update
from posthouse.domain.rollout import Phase, Rollout
from posthouse.domain.worker import Worker
from posthouse.policy.capacity import USABLE, hot, kept, ready
from posthouse.policy.draft import Draft
from posthouse.policy.faults import group_resume_at
from posthouse.policy.needs import Needs

INACTIVE = frozenset({State.MODEL_LOADING, State.STARTING, State.STOPPED})
"""Where a worker takes no requests, and can be updated at once."""


def call_off(draft: Draft, active: bool) -> None:
    """Ends turns that led to nothing yet: the update was cancelled, or the endpoint is not active."""
    for worker in list(draft.all()):
        if worker.goal is Goal.UPDATED and not (active and worker.outdated_at):
            draft.set(worker, goal_beyond_update(worker.state))


def set_canaries_aside(draft: Draft) -> None:
    """Keeps canaries ready, and out of what is counted on wherever another worker serves."""
    for canary in [w for w in list(draft.all()) if is_canary(draft, w)]:
        if canary.goal is Goal.COLD and draft.affords_running(canary):
            draft.set(canary, Goal.HOT)
        if any(w.id != canary.id and not is_canary(draft, w) for w in ready(draft.all())):
            draft.aside[canary.id] = draft.workers.pop(canary.id)


def turns(draft: Draft, needs: Needs) -> tuple[list[Worker], Worker | None]:
    """Workers without requests whose turn it is, and a worker that serves and needs help to come before its turn.

    Who serves comes after the others, unless one of those was refused a moment ago, and begins here where the rest
    that is ready is enough. While the new version fails, one at a time, and never so that capacity is short: a template
    that does not start must not end what still serves. A canary that is known to be at fault does not wait.
    """
    trying = {w.group_id for w in draft.all() if w.state in COMING}
    led: set[WorkergroupId] = set()  # workergroups that have their canary now

    def taken(worker: Worker) -> bool:
        if worker.group_id in led or (worker.group_id in trying and _failures(draft, worker).count):
            return False
        trying.add(worker.group_id)
        if _rollout(draft, worker).phase is Phase.CANARY:
            led.add(worker.group_id)
        return True

    for worker in ready(draft.all()):
        found, refused = _rollout(draft, worker), worker.id in draft.s.resting
        if found.phase is Phase.ROLLED_BACK and worker.outdated_at and worker.id == found.canary and not refused:
            draft.set(worker, Goal.UPDATED)
    going = _going(draft, INACTIVE | {State.UPDATE_STARTING})
    inactive: list[Worker] = []
    for worker in _due(draft, draft.all(), INACTIVE):
        spare = worker.state is State.STOPPED or _rollout(draft, worker).phase is not Phase.CANARY
        room = len(inactive) < _at_once(draft) - len(going)
        if room and spare and draft.affords_running(worker) and taken(worker):
            inactive.append(worker)
    refused = any(w.outdated_at and w.id in draft.s.resting for w in draft.all())
    if (going or inactive) and not refused:
        return inactive, None
    going = _going(draft, frozenset({State.IDLE, State.UPDATE_REBOOTING}))
    needs_help: Worker | None = None
    for worker in _due(draft, ready(draft.all()), frozenset({State.IDLE})):
        rest = [w for w in ready(draft.all()) if w.id != worker.id]
        if len(going) >= _at_once(draft):
            break
        if len(rest) < needs.least or draft.supply(rest) < needs.hot.low:
            needs_help = needs_help or worker  # also while one is on its way: it may be the help
        elif taken(worker):
            draft.set(worker, Goal.UPDATED)
            going.append(worker)
    return inactive, None if going else needs_help


def begin(draft: Draft, inactive: Iterable[Worker], needs_help: Worker | None) -> None:
    """Begins turns once all else is decided: of those that stay, and where no help comes that could be waited for.

    The first worker that is rented for a workergroup without a canary is that. While the new version fails, help is
    waited for though none comes: a worker made as help shows first that it starts again. Where there is no room for
    one, a failure is history after the longest back-off.
    """
    for worker in (draft.workers[w.id] for w in inactive):
        needed = worker.goal is Goal.HOT and _rollout(draft, worker).phase is Phase.CANARY  # since a moment ago
        if worker.goal is not Goal.GONE and not needed and draft.affords_running(worker):
            draft.set(worker, Goal.UPDATED)
    led = _led(draft)
    for number, rental in enumerate(draft.rentals):
        group_id = rental.offer.group_id
        found = draft.s.rollouts.get(group_id, Rollout(group_id))
        waits = group_id in led or draft.s.now < group_resume_at(_failures_of(found), draft.tuning)
        if found.phase is Phase.CANARY and rental.goal is Goal.HOT and not waits:
            led.add(group_id)
            draft.rentals[number] = replace(rental, canary=True)
    if needs_help is None or draft.workers[needs_help.id].goal is not Goal.HOT:
        return
    failures = _failures(draft, needs_help)
    history = draft.budget == 0 and draft.s.now >= failures.last_at + draft.tuning.max_backoff_s
    coming = any(r.goal is Goal.HOT for r in draft.rentals) or any(w.state is not State.IDLE for w in hot(draft.all()))
    if not coming and (history or not failures.count):
        draft.set(needs_help, Goal.UPDATED)


def progress(draft: Draft, needs_help: Worker | None) -> None:
    for found in draft.s.rollouts.values():
        if found.under_way:
            draft.because.append(Reason(f"update of workergroup {found.group_id}", str(found.phase), found.reason))
    outdated = [w for w in kept(draft.all()) if w.outdated_at]
    for worker in outdated:
        if failed := _failures(draft, worker).count:
            rule = f"workergroup {worker.group_id} failed {failed} times: tried one at a time, after a back-off"
            draft.because.append(Obstacle("workers to update", len(outdated), rule))
            return
    if outdated and not any(map(draft.affords_running, outdated)):
        draft.because.append(Obstacle("workers to update", len(outdated), draft.over_cap()))
    elif outdated:
        turn = ", ".join(str(w.id) for w in draft.all() if w.goal is Goal.UPDATED or w.state in UPDATING) or "none"
        rule = f"worker {needs_help.id} waits for other capacity" if needs_help else f"in turn: {turn}"
        draft.because.append(Reason("workers to update", len(outdated), rule))


def _at_once(draft: Draft) -> int:
    return max(1, int(draft.tuning.max_unavailable * len(kept(draft.all()))))


def _going(draft: Draft, states: frozenset[State]) -> list[Worker]:
    """Workers in these states whose turn it is."""
    return [w for w in draft.all() if w.state in states and (w.goal is Goal.UPDATED or w.state in UPDATING)]


def _due(draft: Draft, workers: Iterable[Worker], states: frozenset[State]) -> list[Worker]:
    """Workers in these states that wait for their turn and may be tried: who is free first, who was asked first."""
    s, tuning, led = draft.s, draft.tuning, _led(draft)
    due = [w for w in workers if w.outdated_at and w.state in states and w.goal in (Goal.HOT, Goal.COLD)]
    due = [w for w in due if w.id not in s.resting and w.group_id not in led]
    due = [w for w in due if s.now >= group_resume_at(_failures(draft, w), tuning)]
    return sorted(due, key=lambda w: (w.id in s.busy, w.outdated_at, w.id))


def _led(draft: Draft) -> set[WorkergroupId]:
    """Workergroups that have a canary."""
    return {w.group_id for w in (*draft.all(), *draft.aside.values()) if is_canary(draft, w)}


def is_canary(draft: Draft, worker: Worker) -> bool:
    """True if the worker goes first: its turn has begun, or it runs the new version."""
    found = _rollout(draft, worker)
    first = found.phase is Phase.CANARY and worker.id == found.canary and worker.goal is not Goal.GONE
    begun = first and (worker.goal is Goal.UPDATED or worker.state in UPDATING or found.is_new(worker))
    return begun and worker.state in USABLE | {State.UNAVAIL}


def _rollout(draft: Draft, worker: Worker) -> Rollout:
    return draft.s.rollouts.get(worker.group_id) or Rollout(worker.group_id)


def _failures(draft: Draft, worker: Worker) -> Failures:
    """Of what the worker would run next."""
    found = _rollout(draft, worker)
    return _failures_of(found) if found.guarded else draft.s.group_failures.get(worker.group_id, Failures())


def _failures_of(found: Rollout) -> Failures:
    return Failures(found.failed, found.failed_at)
