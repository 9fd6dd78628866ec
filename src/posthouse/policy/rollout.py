"""Rolling update: whose turn it is to run what its template says now. A few at a time, while the rest can do the work.

Workers that take no requests come first, then those that serve. A turn that has begun is seen through: the worker gets
no new requests, finishes what it has, and is updated.
"""

from collections.abc import Iterable

from posthouse.domain.decision import Failures, Obstacle, Reason
from posthouse.domain.lifecycle import COMING, UPDATING, Goal, State, goal_beyond_update
from posthouse.domain.worker import Worker, WorkerId
from posthouse.policy.backoff import group_resume_at
from posthouse.policy.draft import Draft
from posthouse.policy.needs import Needs

INACTIVE = frozenset({State.MODEL_LOADING, State.STARTING, State.STOPPED})
"""Where a worker takes no requests, and can be updated at once."""


def call_off(draft: Draft, active: bool) -> None:
    """Ends turns that led to nothing yet: the update was cancelled, or the endpoint is not active."""
    for worker in list(draft.all()):
        if worker.goal is Goal.UPDATED and not (active and worker.outdated_at):
            draft.set(worker, goal_beyond_update(worker.state))


def begin_inactive(draft: Draft) -> list[WorkerId]:
    """Begins turns of workers that take no requests, as far as money allows; returns whose.

    Each of them runs for a while. Where they are needed, `wake` counts on them, and `see_through` lets them begin.
    """
    begun: list[WorkerId] = []
    left = _at_once(draft) - len(_going(draft, INACTIVE | {State.UPDATE_STARTING}))
    trying = {w.group_id for w in draft.all() if w.state in COMING}
    for worker in _due(draft, draft.all(), INACTIVE):
        careful = _failures(draft, worker).count > 0 and worker.group_id in trying
        if left > 0 and not careful and draft.affords_running(worker):
            draft.set(worker, Goal.UPDATED)
            trying.add(worker.group_id)
            begun.append(worker.id)
            left -= 1
    return begun


def begin_active(draft: Draft, needs: Needs) -> Worker | None:
    """Begins turns of workers that serve, where the rest that is ready is enough; returns who waits for help to come.

    None while others are updated that take no requests, unless one of those was refused a moment ago. While the
    workergroup fails, one at a time, and never so that capacity is short: a template that does not start must not
    end what still serves. Who waits for help counts as away already, so that help is looked for.
    """
    refused = any(w.outdated_at and w.id in draft.s.resting for w in draft.all())
    if _going(draft, INACTIVE | {State.UPDATE_STARTING}) and not refused:
        return None
    left = _at_once(draft) - len(_going(draft, frozenset({State.IDLE, State.UPDATE_REBOOTING})))
    begun = left < _at_once(draft)
    trying = {w.group_id for w in draft.all() if w.state in COMING}
    waits: Worker | None = None
    for worker in _due(draft, draft.ready(), frozenset({State.IDLE})):
        rest = [w for w in draft.ready() if w.id != worker.id]
        if left <= 0:
            break
        if len(rest) < needs.least or draft.supply(rest) < needs.hot.low:
            waits = (
                waits or worker
            )  # also while one is on its way: it may be the help, which nobody would need any more
        elif not (_failures(draft, worker).count and worker.group_id in trying):
            draft.set(worker, Goal.UPDATED)
            trying.add(worker.group_id)
            left, begun = left - 1, True
    if begun or waits is None:
        return None
    draft.set(waits, Goal.UPDATED)
    return waits


def helped(draft: Draft, waits: Worker) -> bool:
    """Whether help comes for the worker that waits for it; else it would wait for ever.

    While the workergroup fails that is borne: a worker made as help shows first that the template starts again. Where
    there is no room for one, a failure is history after the longest back-off.
    """
    failures = _failures(draft, waits)
    history = draft.budget == 0 and draft.s.now >= failures.last_at + draft.tuning.max_backoff_s
    coming = any(r.goal is Goal.HOT for r in draft.rentals) or any(w.state is not State.IDLE for w in draft.hot())
    return coming or (failures.count > 0 and not history)


def see_through(draft: Draft, begun: Iterable[WorkerId], waits: Worker | None, helped: bool) -> None:
    """Settles whose turn it is, once all else is decided: of those that stay, who has begun goes on.

    Who waits for help that comes serves until it is there.
    """
    for worker_id in begun:
        if draft.workers[worker_id].goal is not Goal.GONE:
            draft.set(draft.workers[worker_id], Goal.UPDATED)
    if waits is not None and helped and draft.workers[waits.id].goal is Goal.UPDATED:
        draft.set(draft.workers[waits.id], Goal.HOT)


def progress(draft: Draft, waits: Worker | None) -> None:
    """Says how far the update is."""
    outdated = [w for w in draft.kept() if w.outdated_at]
    for worker in outdated:
        if failed := _failures(draft, worker).count:
            rule = f"workergroup {worker.group_id} failed {failed} times: with care, after a while"
            draft.because.append(Obstacle("workers to update", len(outdated), rule))
            return
    if outdated:
        turn = ", ".join(str(w.id) for w in draft.all() if w.goal is Goal.UPDATED or w.state in UPDATING) or "none"
        rule = f"others must step in first for worker {waits.id}" if waits else f"in turn: {turn}"
        draft.because.append(Reason("workers to update", len(outdated), rule))


def _at_once(draft: Draft) -> int:
    return max(1, int(draft.tuning.max_unavailable * len(draft.kept())))


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
