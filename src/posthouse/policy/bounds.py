"""The limits that no decision passes: zero, numbers of workers, and money."""

from collections.abc import Collection

from posthouse.domain.demand import Demand
from posthouse.domain.endpoint import Scaling
from posthouse.domain.lifecycle import COMING, Goal
from posthouse.domain.offer import Price
from posthouse.domain.worker import Worker


def silent_long_enough(scaling: Scaling, demand: Demand, now: float) -> bool:
    """True if a positive `inactivity_timeout` has passed without a request, and none is open."""
    timeout_s = scaling.inactivity_timeout or 0.0
    open_work = demand.waiting > 0 or demand.outstanding > 0
    return timeout_s > 0 and not open_work and now - demand.last_request_at >= timeout_s


def least_hot(scaling: Scaling, demand: Demand, now: float) -> int:
    """How many workers must be hot, whatever the load: 1 or 0.

    `min_load` above 0 keeps one, so does a negative `inactivity_timeout`, so does a positive one that has not passed.
    """
    timeout_s = scaling.inactivity_timeout or 0.0
    if scaling.min_load > 0 or timeout_s < 0:
        return 1
    if timeout_s > 0:
        return 0 if silent_long_enough(scaling, demand, now) else 1
    return 1 if demand.waiting > 0 or demand.outstanding > 0 else 0


def budget(scaling: Scaling, workers: Collection[Worker]) -> int:
    """How many workers may still be added. Every worker counts that may exist, whatever its state."""
    return max(0, scaling.max_workers - len(workers))


def running_usd_h(price: Price) -> float:
    """The most a worker costs per hour while it is not stopped."""
    return max(price.ready_usd_h, price.loading_usd_h)


def committed_usd_h(worker: Worker) -> float:
    """What the worker may come to cost per hour: the dearer of what it is and of where its goal takes it."""
    # A cold one, too, is ready once before it rests.
    will_run = worker.goal in (Goal.HOT, Goal.UPDATED) or worker.state in COMING
    return max(worker.usd_h(), running_usd_h(worker.price) if will_run else 0.0)
