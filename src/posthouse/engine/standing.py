"""The situation of an endpoint, as a row and as a sentence: what waits, why, and what it costs."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

from posthouse.budget import Left
from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.rollout import Phase
from posthouse.domain.worker import Worker
from posthouse.engine.figures import figures
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.verdict import condition, obstacles, shortened, verdict
from posthouse.policy.rollout import INACTIVE
from posthouse.wire.rows import MoneyLeft, Standing, Update

_DIGITS: Final = re.compile(r"\d+")
"""Of seconds and numbers of processes, in which equal failures differ."""


def standing(managed: ManagedEndpoint, now: float) -> Standing:
    """The endpoint as a row."""
    fleet, shown = managed.fleet, figures(managed, now)
    found = verdict(managed, shown, now)
    return Standing(
        id=fleet.endpoint.id,
        endpoint=fleet.endpoint.name,
        state=str(fleet.endpoint.state),
        workers=Counter(str(worker.state) for worker in fleet.workers.values()),
        waiting=shown.waiting,
        oldest_wait_s=shown.oldest_wait_s,
        why=why(managed, now),
        condition=condition(managed, shown, found),
        verdict=found,
        figures=shown,
        usd_h=shown.usd_h,
        spent_usd=fleet.spent_usd(now),
        updates=updates(managed),
        limited=managed.limited,
    )


def updates(managed: ManagedEndpoint) -> list[Update]:
    """How far the updates of the endpoint's workergroups are, as rows."""
    found = []
    for rollout in managed.fleet.roster.rollouts.values():
        there = [w for w in managed.of_group(rollout.group_id) if w.goal is not Goal.GONE]
        new = sum(w.build == rollout.target and not w.outdated_at for w in there)
        phase = str(rollout.phase)
        if rollout.phase is Phase.ROLLING:
            phase = "inactive" if any(w.outdated_at and w.state in INACTIVE for w in there) else "active"
        if rollout.since:
            row = Update(
                workergroup_id=rollout.group_id,
                phase=phase,
                since=rollout.since,
                new=new,
                old=len(there) - new,
                reason=rollout.reason,
                stable=rollout.stable,
                target=rollout.target,
            )
            found.append(row)
    return found


def update_of(managed: ManagedEndpoint, worker: Worker) -> str:
    """What an update means for a worker, as `wire.rows.Worker` has it."""
    canary = managed.fleet.roster.rollouts.of(worker).canary_is(worker)
    return "canary" if canary else "due" if worker.outdated_at else ""


def money_left(left: Iterable[Left], endpoint: str = "") -> list[MoneyLeft]:
    """What caps leave, as rows. `endpoint`: whose they are; empty: the installation's."""
    return [
        MoneyLeft(
            cap=one.name,
            endpoint=endpoint,
            limit=one.limit,
            used=one.used,
            usd_h=one.usd_h,
            ends_at=one.ends_at,
            level=one.level,
            text=one.text(),
        )
        for one in left
    ]


def why(managed: ManagedEndpoint, now: float) -> str:
    """What keeps the endpoint from having a ready worker; empty where it has one, or nothing failed."""
    if any(worker.state is State.IDLE for worker in managed.fleet.workers.values()):
        return ""
    if failures := [worker.message for worker in managed.last_failures(now)]:
        last, alike = shortened(failures[-1]), [_DIGITS.sub("", text) for text in failures]
        same = alike.count(alike[-1])
        return f"the last {same} ended with: {last}" if same > 1 else f"the last one said: {last}"
    rules = [obstacle.rule for obstacle in obstacles(managed)]
    loading = [worker.message for worker in managed.fleet.workers.values() if worker.message]
    return next((shortened(text) for text in (*rules, *loading)), "")
