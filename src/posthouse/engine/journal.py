"""Decisions as plain data: kept in the store, printed by `explain`."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec

from posthouse.domain.decision import Decision, Obstacle
from posthouse.domain.endpoint import DEFAULT_ACCOUNT, EndpointId
from posthouse.engine.figures import figures
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.standing import money_left, updates
from posthouse.engine.treasury import Treasury
from posthouse.engine.verdict import verdict
from posthouse.fleet.events import Counters
from posthouse.policy.route import WARM_SHARE
from posthouse.ports import JournalEntry
from posthouse.wire import rows


def entry(endpoint_id: EndpointId, decision: Decision) -> JournalEntry:
    """A decision as it is stored."""
    return JournalEntry(endpoint_id, decision.at, plain(decision))


def plain(decision: Decision) -> dict[str, Any]:
    """A decision as data for JSON; infinite capacity ("not measured yet") becomes null."""
    return {
        "at": decision.at,
        "hot_need": _finite(decision.hot_need),
        "hot_supply": _finite(decision.hot_supply),
        "ready_supply": _finite(decision.ready_supply),
        "goals": {str(worker_id): str(goal) for worker_id, goal in decision.goals.items()},
        "rentals": [
            {"workergroup": r.offer.group_id, "offer": r.offer.offer.id, "goal": str(r.goal)} for r in decision.rentals
        ],
        "because": [{**asdict(reason), "obstacle": isinstance(reason, Obstacle)} for reason in decision.because],
    }


def orders(decision: Mapping[str, Any]) -> str:
    """What a decision, as data, changed."""
    goals = [f"worker {worker} becomes {goal}" for worker, goal in decision["goals"].items()]
    rentals = [f"rent one {r['goal']} worker from workergroup {r['workergroup']}" for r in decision["rentals"]]
    return ", ".join(goals + rentals) or "no change"


def explain(managed: ManagedEndpoint, treasury: Treasury, now: float) -> rows.Explanation:
    """Why the fleet is the size it is: the latest decision, its reasons, and what there is."""
    fleet = managed.fleet
    shared = treasury.left(now) if fleet.endpoint.account_id == DEFAULT_ACCOUNT else []
    snapshot = fleet.snapshot(now, ())
    return rows.Explanation(
        endpoint=fleet.endpoint.name,
        state=str(fleet.endpoint.state),
        scaling=fleet.endpoint.scaling,
        workers=rows.WorkerCounts(
            by_state=Counter(str(w.state) for w in fleet.workers.values()),
            by_goal=Counter(str(w.goal) for w in fleet.workers.values()),
        ),
        demand=snapshot.demand,
        estimates=snapshot.estimates,
        usd_h=sum(w.usd_h() for w in fleet.workers.values()),
        spent_usd=fleet.spent_usd(now),
        decision=None if managed.decision is None else msgspec.convert(plain(managed.decision), rows.Decision),
        messages={str(w.id): w.message for w in fleet.workers.values() if w.message},
        failures={str(w.id): w.message for w in managed.last_failures(now)},
        caps=money_left(treasury.left_of(managed, now), fleet.endpoint.name) + money_left(shared),
        updates=updates(managed),
        limited=managed.limited,
        affinity=_affinity(fleet.counters),
        verdict=verdict(managed, figures(managed, now), now),
    )


def _affinity(counters: Counters) -> rows.Affinity | None:
    if not counters.keyed:
        return None
    return rows.Affinity(asked=counters.keyed, kept=counters.kept, saves_share=WARM_SHARE)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
