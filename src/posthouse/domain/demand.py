"""The demand of clients on an endpoint."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of an endpoint now.

    Units: rates in work per second, amounts in work, spans in seconds.
    """

    rate: float = 0.0
    """Offered work per second, mean of the last minute, each request counted once however often it is asked again."""
    long_rate: float = 0.0
    """The same over the last five minutes."""
    recent_rate: float = 0.0
    """The same over the last `recent_s`."""
    recent_s: float = 10.0
    """10 s, or as long as a request takes if that is more: that long it keeps its worker busy, whenever it came."""
    variance: float = 0.0
    """Of the work offered in ten seconds, for each of them, over four minutes until a minute ago; in work squared per
    second."""
    cost: float = 0.0
    """Work of the request that a unit of work belongs to, in the mean of the last five minutes; 0: unknown. Of requests
    of random sizes about twice the mean, for large ones bring more units."""
    waiting: float = 0.0
    """Work of requests that have no worker yet."""
    waiting_count: int = 0
    outstanding: float = 0.0
    """Work that workers have been given and not finished."""
    outstanding_count: int = 0
    queued: float = 0.0
    """The part of `outstanding` that is not in service yet."""
    service_s: float = 0.0
    """Seconds that a request takes at a worker that has no other, at the mean cost of those outstanding; 0: unknown."""
    oldest_wait_s: float = 0.0
    """Age of the request that has waited longest without a worker."""
    last_request_at: float = 0.0
    """When a request was last asked for, or ended."""
    factor: float = 1.0
    """Work that workers count for a unit of the cost that clients announce; learned where they differ."""
