"""Which worker gets a request."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from posthouse.policy.faults import Floats

Uints = NDArray[np.uint64]

IN_SERVICE_SHARE = 1e-3
"""What work in service counts where a slot is free: enough that of two such workers the less loaded one is taken."""
WARM_SHARE = 0.5
"""What a worker that keeps what a request begins with saves of the request's own time; nominal. By so much longer than
elsewhere a request waits for it."""


def work_ahead(work: float, count: int, slots: float) -> float:
    """Work that a worker must do before it can begin with another request.

    With a free slot next to none, however much work the others are: each of them keeps no more than one slot. Else the
    work of those that queue and of the one whose end frees the slot: of `count` requests `count + 1 - slots`, each
    taken to be as large as their mean. One slot: all of it, as the protocol's workers reckon.
    """
    if not count:
        return 0.0
    share = (count + 1 - slots) / count
    return work * (share if share > IN_SERVICE_SHARE else IN_SERVICE_SHARE)


def queued_work(work: float, count: int, slots: float) -> float:
    """Work at a worker that is not in service yet: that of the requests beyond its slots, at their mean."""
    return work * max(0.0, count - slots) / count if count else 0.0


def end_s(work: Floats, unit_s: Floats, cost: float) -> Floats:
    """When workers would have finished a request: work ahead and its own, at their seconds for a unit of it."""
    with np.errstate(over="ignore", invalid="ignore"):
        return (work + cost) * unit_s


def pick(
    work: Floats,
    unit_s: Floats,
    cost: float,
    max_queue_s: float,
    tie_break: int,
    extra_s: Floats | None = None,
    ends_s: NDArray[np.float32] | None = None,
) -> int | None:
    """The row of the worker with the smallest sum of seconds, or None where every wait is above `max_queue_s`.

    The sum is work ahead + own time + whatever else speaks against a worker: `extra_s`, which is its penalty for
    failures, and infinite for a worker that this request must not get. The wait is the sum without the own time. Of
    equal rows the first, until its work tells it from the others; requests without cost leave none, so for them equal
    rows are chosen from by `tie_break`, any number that differs between requests.
    `ends_s`: `end_s` of every row, if it is known already. An infinite `unit_s` takes nothing.
    Shape: one entry a worker. Units: work, seconds.
    """
    sums_s: NDArray[np.floating[Any]] = end_s(work, unit_s, cost) if ends_s is None else ends_s
    if extra_s is not None:
        sums_s = sums_s + extra_s
    with np.errstate(invalid="ignore"):
        waits_s = work * unit_s if extra_s is None else work * unit_s + extra_s
        free = (waits_s <= max_queue_s) & (sums_s < np.inf)
    if not free.any():
        return None
    sums_s = np.where(free, sums_s, np.inf)
    best = np.flatnonzero(sums_s == sums_s.min())
    return int(best[tie_break % best.size if cost == 0.0 else 0])


def seeds(ids: Uints) -> Uints:
    """What `favourite` needs of workers, by their ids."""
    return ids * np.uint64(0x9E3779B97F4A7C15)


def favourite(key: int, of: Uints, unit_s: Floats) -> int:
    """The row of the worker that requests with this key, from 0 to below 2**64, share while they can.

    Weighted rendezvous hashing: each has as many keys as it is fast, and only the keys of one that goes move. Sources:
    Thaler and Ravishankar 1998; for the weights, Schindelhauer and Schomaker 2005; for the hash, splitmix64.
    `of`: the `seeds` of the workers.
    """
    mixed = of + np.uint64(key)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    drawn = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
    return int((-np.log1p(-drawn) * unit_s).argmin())
