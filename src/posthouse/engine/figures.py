"""An endpoint in figures, and each worker as one of six looks: what dashboards, charts and verdicts share."""

import math
from collections import Counter
from typing import TYPE_CHECKING, Final

from posthouse.domain.estimates import Estimates
from posthouse.domain.lifecycle import COMING, Goal, State
from posthouse.domain.worker import Worker
from posthouse.policy.capacity import hot, kind_of, known_perf, ready
from posthouse.wire.rows.live import Figures

if TYPE_CHECKING:
    from posthouse.engine.managed import ManagedEndpoint

LOOKS: Final = ("hot", "loading", "cold", "draining", "failed", "gone")
"""In the order in which they are stacked."""
_LOOK_OF: Final = {
    **dict.fromkeys(COMING, "loading"),
    State.IDLE: "hot",
    State.STOPPED: "cold",
    State.STOPPING: "cold",
    State.ERROR: "failed",
    State.UNAVAIL: "failed",
}


def look(worker: Worker) -> str:
    """One word of `LOOKS` for the state of a worker and what is wanted of it."""
    if worker.state is State.IDLE and worker.goal is not Goal.HOT:
        return "draining"
    return _LOOK_OF.get(worker.state, "gone")


def figures(managed: "ManagedEndpoint", now: float) -> Figures:
    """The figures of an endpoint now."""
    fleet, workers = managed.fleet, list(managed.fleet.workers.values())
    demand = fleet.requests.demand(now)
    known = Estimates(perf=fleet.roster.estimator.perf())

    def capacity(of: list[Worker]) -> float:
        return sum(w.perf or known_perf(kind_of(w.group_id, w), known) for w in of)

    need = 0.0 if managed.decision is None else managed.decision.hot_need
    return Figures(
        load=demand.rate,
        need=need if math.isfinite(need) else 0.0,
        hot=capacity(ready(workers)),
        coming=capacity([w for w in hot(workers) if w.state in COMING]),
        cold=capacity([w for w in workers if w.state is State.STOPPED and w.goal is not Goal.GONE]),
        waiting=demand.waiting_count,
        oldest_wait_s=demand.oldest_wait_s,
        p95_wait_s=managed.samples.p95_wait_s,
        looks=Counter(map(look, workers)),
        usd_h=sum(worker.usd_h() for worker in workers),
    )
