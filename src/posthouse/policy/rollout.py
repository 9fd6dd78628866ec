"""Whose turn it is to run what its template says now: a few at a time, and the rest can do the work.

Workers that take no requests come first, then those that serve. A turn that has begun is seen through: the worker gets
no new requests, finishes what it has, and is updated.
"""

from collections.abc import Iterable

from posthouse.domain.lifecycle import COMING, UPDATING, Goal, State, goal_beyond_update
from posthouse.domain.plan import Failures, Obstacle, Reason, Snapshot
from posthouse.domain.worker import Worker, WorkerId
from posthouse.policy.backoff import MAX_WAIT_S, group_resume_at
from posthouse.policy.bounds import affordable, committed_usd_h, room, running_usd_h
from posthouse.policy.capacity import hot, kept, ready, supply

MAX_UNAVAILABLE = 0.25
"""Largest share of the workers in turn at one time, of those that serve and of the others; at least one. What does not
start with the new template then shows on a few."""

INACTIVE = frozenset({State.MODEL_LOADING, State.STARTING, State.STOPPED})
"""Where a worker takes no requests, and can be updated at once."""

Turns = dict[WorkerId, Goal]


def called_off(workers: Iterable[Worker], active: bool) -> Turns:
    """Goals of workers whose turn is over before it led to anything: cancelled, or the endpoint is not active."""
    return {
        w.id: goal_beyond_update(w.state) for w in workers if w.goal is Goal.UPDATED and not (active and w.outdated_at)
    }


def inactive(s: Snapshot, team: tuple[Worker, ...]) -> Turns:
    """Turns of workers that take no requests, as far as money allows: each of them runs for a while."""
    due = _waiting(s, team, INACTIVE)
    if not due:
        return {}
    left = _at_once(team) - len(_going(team, INACTIVE | {State.UPDATE_STARTING}))
    trying = {w.group_id for w in team if w.state in COMING}
    committed = committed_usd_h(team)
    turns: Turns = {}
    for worker in due:
        extra_usd_h = max(0.0, running_usd_h(worker.price) - committed_usd_h([worker]))
        careful = _failures(s, worker).count > 0 and worker.group_id in trying
        if len(turns) < left and not careful and affordable(s.endpoint.scaling, committed, extra_usd_h):
            turns[worker.id] = Goal.UPDATED
            trying.add(worker.group_id)
            committed += extra_usd_h
    return turns


def active(s: Snapshot, team: tuple[Worker, ...], need: float, count: int) -> tuple[Turns, Turns]:
    """Turns of workers that serve, where the rest that are ready can do `need` and are `count`; and who waits for help.

    None while others are updated that take no requests, unless one of those was refused a moment ago. While the
    workergroup fails, one at a time, and never so that capacity is short: a template that does not start must not
    end what still serves.
    """
    if not any(w.outdated_at for w in team):
        return {}, {}
    refused = any(w.outdated_at and w.id in s.resting for w in team)
    if _going(team, INACTIVE | {State.UPDATE_STARTING}) and not refused:
        return {}, {}
    serving = ready(team)
    going = _going(team, frozenset({State.IDLE, State.UPDATE_REBOOTING}))
    trying = {w.group_id for w in team if w.state in COMING}
    turns: Turns = {}
    waits: Turns = {}
    for worker in _waiting(s, serving, frozenset({State.IDLE})):
        failing = _failures(s, worker).count > 0
        rest = [w for w in serving if w is not worker and w.id not in turns]
        if len(going) + len(turns) >= _at_once(team):
            continue
        if len(rest) < count or supply(rest, s.estimates) < need:
            # Also while one is on its way: it may be the help, which nobody would need any more.
            waits = waits or {worker.id: Goal.UPDATED}
        elif not (failing and worker.group_id in trying):
            turns[worker.id] = Goal.UPDATED
            trying.add(worker.group_id)
    return turns, {} if turns or going else waits


def nobody_comes(s: Snapshot, team: tuple[Worker, ...], waits: Turns) -> bool:
    """True if no help is on its way, so that who waits for it would wait for ever.

    While the workergroup fails that is borne: a worker made as help shows first that the template starts again. Where
    there is no room for one, a failure is history after the longest back-off.
    """
    no_room = room(s.endpoint.scaling, team) == 0
    counted = [f for f in (_failures(s, w) for w in team if w.id in waits) if f.count]
    failing = any(not no_room or s.now < f.last_at + MAX_WAIT_S for f in counted)
    return not failing and all(w.state is State.IDLE for w in hot(team))


def progress(s: Snapshot, team: tuple[Worker, ...], waits: Turns) -> tuple[Reason, ...]:
    """How far the update is, as a line of the explanation; none without one."""
    left = [w for w in kept(team) if w.outdated_at]
    if not left:
        return ()
    for worker in left:
        failures = _failures(s, worker)
        if failures.count:
            rule = f"workergroup {worker.group_id} failed {failures.count} times: with care, after a while"
            return (Obstacle("workers to update", len(left), rule),)
    turn = [str(w.id) for w in team if w.goal is Goal.UPDATED or w.state in UPDATING]
    rule = f"others must step in first for worker {min(waits)}" if waits else f"in turn: {', '.join(turn) or 'none'}"
    return (Reason("workers to update", len(left), rule),)


def _at_once(team: tuple[Worker, ...]) -> int:
    return max(1, int(MAX_UNAVAILABLE * len(kept(team))))


def _going(team: tuple[Worker, ...], states: frozenset[State]) -> list[Worker]:
    """Workers in these states whose turn it is."""
    return [w for w in team if w.state in states and (w.goal is Goal.UPDATED or w.state in UPDATING)]


def _waiting(s: Snapshot, workers: Iterable[Worker], states: frozenset[State]) -> list[Worker]:
    """Workers in these states that wait for their turn and may be tried: who is free first, who was asked first."""
    due = [w for w in workers if w.outdated_at and w.state in states and w.goal in (Goal.HOT, Goal.COLD)]
    due = [w for w in due if w.id not in s.resting and s.now >= group_resume_at(_failures(s, w))]
    return sorted(due, key=lambda w: (w.id in s.busy, w.outdated_at, w.id))


def _failures(s: Snapshot, worker: Worker) -> Failures:
    return s.group_failures.get(worker.group_id, Failures())
