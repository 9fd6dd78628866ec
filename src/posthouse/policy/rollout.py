"""Rolling update: whose turn it is to run what its template says now. A few at a time, while the rest can do the work.

Workers that take no requests come first, then those that serve. A turn that has begun is seen through: the worker gets
no new requests, finishes what it has, and is updated.
"""

from collections.abc import Iterable

from posthouse.domain.decision import Failures, Obstacle, Reason
from posthouse.domain.lifecycle import COMING, UPDATING, Goal, State, goal_beyond_update
from posthouse.domain.worker import Worker
from posthouse.policy.capacity import hot, kept, ready
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


def turns(draft: Draft, needs: Needs) -> tuple[list[Worker], Worker | None]:
    """Workers without requests whose turn it is, and a worker that serves and needs help to come before its turn.

    Who serves comes after the others, unless one of those was refused a moment ago, and begins here where the rest
    that is ready is enough. While the workergroup fails, one at a time, and never so that capacity is short: a template
    that does not start must not end what still serves.
    """
    trying = {w.group_id for w in draft.all() if w.state in COMING}

    def may_try(worker: Worker) -> bool:
        return not (_failures(draft, worker).count and worker.group_id in trying)

    going = _going(draft, INACTIVE | {State.UPDATE_STARTING})
    inactive: list[Worker] = []
    for worker in _due(draft, draft.all(), INACTIVE):
        if len(inactive) < _at_once(draft) - len(going) and may_try(worker) and draft.affords_running(worker):
            trying.add(worker.group_id)
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
        elif may_try(worker):
            draft.set(worker, Goal.UPDATED)
            trying.add(worker.group_id)
            going.append(worker)
    return inactive, None if going else needs_help


def begin(draft: Draft, inactive: Iterable[Worker], needs_help: Worker | None) -> None:
    """Begins turns once all else is decided: of those that stay, and where no help comes that could be waited for.

    While the workergroup fails, help is waited for though none comes: a worker made as help shows first that the
    template starts again. Where there is no room for one, a failure is history after the longest back-off.
    """
    for worker in (draft.workers[w.id] for w in inactive):
        if worker.goal is not Goal.GONE and draft.affords_running(worker):
            draft.set(worker, Goal.UPDATED)
    if needs_help is None or draft.workers[needs_help.id].goal is not Goal.HOT:
        return
    failures = _failures(draft, needs_help)
    history = draft.budget == 0 and draft.s.now >= failures.last_at + draft.tuning.max_backoff_s
    coming = any(r.goal is Goal.HOT for r in draft.rentals) or any(w.state is not State.IDLE for w in hot(draft.all()))
    if not coming and (history or not failures.count):
        draft.set(needs_help, Goal.UPDATED)


def progress(draft: Draft, needs_help: Worker | None) -> None:
    """Says how far the update is."""
    outdated = [w for w in kept(draft.all()) if w.outdated_at]
    for worker in outdated:
        if failed := _failures(draft, worker).count:
            rule = f"workergroup {worker.group_id} failed {failed} times: with care, after a while"
            draft.because.append(Obstacle("workers to update", len(outdated), rule))
            return
    if outdated:
        turn = ", ".join(str(w.id) for w in draft.all() if w.goal is Goal.UPDATED or w.state in UPDATING) or "none"
        rule = f"others must step in first for worker {needs_help.id}" if needs_help else f"in turn: {turn}"
        draft.because.append(Reason("workers to update", len(outdated), rule))


def _at_once(draft: Draft) -> int:
    return max(1, int(draft.tuning.max_unavailable * len(kept(draft.all()))))


def _going(draft: Draft, states: frozenset[State]) -> list[Worker]:
    """Workers in these states whose turn it is."""
    return [w for w in draft.all() if w.state in states and (w.goal is Goal.UPDATED or w.state in UPDATING)]


def _due(draft: Draft, workers: Iterable[Worker], states: frozenset[State]) -> list[Worker]:
    """Workers in these states that wait for their turn and may be tried: who is free first, who was asked first."""
    s, tuning = draft.s, draft.tuning
    due = [w for w in workers if w.outdated_at and w.state in states and w.goal in (Goal.HOT, Goal.COLD)]
    due = [w for w in due if w.id not in s.resting and s.now >= group_resume_at(_failures(draft, w), tuning)]
    return sorted(due, key=lambda w: (w.id in s.busy, w.outdated_at, w.id))


def _failures(draft: Draft, worker: Worker) -> Failures:
    return draft.s.group_failures.get(worker.group_id, Failures())
