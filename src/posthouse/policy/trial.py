"""Whether a new version may go on: compared with the old one by its starts, its benchmark and its errors."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.rollout import Phase, Rollout
from posthouse.domain.worker import Worker
from posthouse.policy.capacity import kind_of, ready

CANARY_SHARE = 0.1
"""A canary is given at most this share of the requests while others are free. Source: Argo Rollouts' first steps."""
HELD_BACK_S = 5.0
"""Beyond that it looks as much busier than it is: it is given more only where others would take longer still."""
REQUESTS = 50
"""A canary passes once so many have ended there, or after `UNASKED` times as long with fewer."""
UNASKED = 5
TRIES = 3
"""So many failures say something of a version: of workers in a row, and of requests. Where no other worker serves, one
worker's does."""
SIGMAS = 3.0
"""More failures than so many standard deviations above what the old version's share lets expect are too many. Source:
Shewhart's control charts."""
ERROR_SHARE = 0.01
"""A version may fail so often however seldom the old one does."""
SLOW_SHARE = 0.7
"""A version that does less than this share of the old one's work per second is too slow."""


@dataclass(slots=True)
class Trial:
    """What was seen of the new version (True) and the old one (False) since an update began, or this server."""

    since: float
    perf: Mapping[str, float]
    """Work per second that the old version does, by kind of machine."""
    ended: Counter[bool] = field(default_factory=Counter)
    """Requests that have ended."""
    failed: Counter[bool] = field(default_factory=Counter)
    """Of these, by the worker's fault as far as anybody knows."""


def can_be_updated(worker: Worker) -> bool:
    """True if an update of its workergroup is one of this worker."""
    return worker.goal is not Goal.GONE and worker.state not in (State.WANTED, State.ERROR, State.DESTROYING)


def judged(rollout: Rollout, workers: Iterable[Worker], trial: Trial, now: float, canary_s: float) -> Rollout:
    """An update under way as it stands now. `workers`: of its workergroup. `canary_s`: how long a canary must serve."""
    there = list(workers)
    serving = ready(there)
    fresh = [w for w in serving if rollout.is_new(w)]
    if rollout.guarded and (why := _fault(rollout, len(serving) > len(fresh), fresh, trial)):
        return replace(rollout, phase=Phase.ROLLED_BACK, since=now, reason=why)
    if rollout.phase is Phase.ROLLING:
        if any(w.outdated_at and can_be_updated(w) for w in there):
            return rollout
        proven = rollout.stable or any(w.loaded_at for w in there)
        return replace(rollout, phase=Phase.DONE, since=now, stable=rollout.target if proven else "", reason="")
    served_s = max((now - max(w.since, trial.since) for w in fresh), default=-1.0)
    if served_s < canary_s or (trial.ended[True] < REQUESTS and served_s < UNASKED * canary_s):
        return rollout
    reason = f"the canary served {trial.ended[True]} requests in {served_s:.0f} s, of which {trial.failed[True]} failed"
    return replace(rollout, phase=Phase.ROLLING, since=now, reason=reason, failed=0)


def _fault(rollout: Rollout, others: bool, fresh: list[Worker], trial: Trial) -> str:
    """What is wrong with the new version; empty if nothing is known of it. `others`: workers of the old one serve."""
    if rollout.failed >= (TRIES if others or rollout.phase is Phase.ROLLING else 1):
        return f"{rollout.failed} workers failed; the last one: {rollout.reason or 'it ended'}"
    ended, failed = trial.ended, trial.failed
    expected = ended[True] * max(ERROR_SHARE, failed[False] / max(1, ended[False]))
    if failed[True] >= TRIES and failed[True] > expected + SIGMAS * math.sqrt(expected):
        old = f"of the old version {failed[False]} of {ended[False]}"
        return f"{failed[True]} of {ended[True]} requests failed; {old}"
    for worker in fresh:
        usual = trial.perf.get(kind_of(worker.group_id, worker), 0.0)
        if worker.perf < usual * SLOW_SHARE:
            return f"worker {worker.id} does {worker.perf:.4g} work/s; the old version {usual:.4g}"
    return ""
