"""What workers can do. Units: work per second, unless a name says otherwise."""

import math
from collections.abc import Iterable
from statistics import median

from posthouse.domain.endpoint import WorkergroupId
from posthouse.domain.estimates import Estimates
from posthouse.domain.lifecycle import COMING, Goal, State
from posthouse.domain.offer import Offer
from posthouse.domain.worker import Worker

USABLE = COMING | {State.IDLE, State.STOPPING, State.STOPPED}
"""States from which a worker will serve if we want it to. Silent and failed workers are not counted on."""


def kind_of(group_id: WorkergroupId, machine: Worker | Offer) -> str:
    """What is learned by: workers of one group on equal machines of a provider do about the same work."""
    return f"{group_id}/{machine.num_gpus}x{machine.gpu_name}@{machine.provider}"


def known_perf(kind: str, estimates: Estimates) -> float:
    """As measured there, else on equal machines of other providers; 0 if nobody knows."""
    if perf := estimates.perf.get(kind):
        return perf
    equal = kind.rpartition("@")[0] + "@"
    return median([perf for known, perf in estimates.perf.items() if known.startswith(equal)] or [0.0])


def expected_perf(worker_kind: str, usd_h: float, estimates: Estimates) -> float:
    """What a worker of this kind at this price can do: as is known, else a guess, else infinite.

    The guess: as much for its money as the median of the kinds that its workergroup knows. Infinite stands for "nobody
    knows yet": one unmeasured worker is enough, until it has shown what it can do.
    """
    if perf := known_perf(worker_kind, estimates):
        return perf
    if not estimates.perf:
        return math.inf
    values = estimates.work_per_usd
    if usd_h <= 0 or not values:
        return median(estimates.perf.values())
    group = worker_kind.partition("/")[0] + "/"
    own = [value for known, value in values.items() if known.startswith(group)]
    return median(own or values.values()) * usd_h


def perf_of(worker: Worker, estimates: Estimates) -> float:
    """What the worker can do: its own measurement, else what its kind lets expect."""
    kind = kind_of(worker.group_id, worker)
    return worker.perf if worker.perf > 0 else expected_perf(kind, worker.price.running_usd_h, estimates)


def supply(workers: Iterable[Worker], estimates: Estimates) -> float:
    """What the workers can do together."""
    return sum([w.perf or perf_of(w, estimates) for w in workers])


def hot(workers: Iterable[Worker]) -> list[Worker]:
    """Workers that serve or will: what is on its way counts, so that waiting for it never looks like a lack."""
    return [w for w in workers if w.goal is Goal.HOT and w.state in USABLE]


def ready(workers: Iterable[Worker]) -> list[Worker]:
    """Workers that take requests now."""
    return [w for w in workers if w.goal is Goal.HOT and w.state is State.IDLE and w.perf > 0]


def kept(workers: Iterable[Worker]) -> list[Worker]:
    """Workers hot or cold that we mean to keep."""
    return [w for w in workers if w.goal is not Goal.GONE and w.state in USABLE]


def coming(workers: Iterable[Worker], estimates: Estimates, now: float) -> list[tuple[float, float]]:
    """What will serve and does not yet: in how many seconds each is expected to be ready, and its performance.

    A worker that is late is expected to be as late again: of long tails the rest grows with the age.
    """

    def left_s(worker: Worker) -> float:
        usual_s = estimates.start_s if worker.loaded_at > 0 else estimates.create_s
        return abs(usual_s - (now - worker.began_at))

    return [(left_s(w), perf_of(w, estimates)) for w in hot(workers) if w.state in COMING]


def shown(value: float) -> float | str:
    """The value for an explanation, which has no infinite numbers."""
    return value if math.isfinite(value) else "not measured yet"
