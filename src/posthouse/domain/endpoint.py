"""An endpoint: a named group of workers that serve one model, and the parameters by which it scales."""

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import NewType

EndpointId = NewType("EndpointId", int)


class EndpointState(StrEnum):
    ACTIVE = "active"  # managed
    SUSPENDED = "suspended"  # nothing is recruited or released; what is on its way arrives
    STOPPED = "stopped"  # every worker is made inactive


@dataclass(frozen=True, slots=True)
class Scaling:
    """How an endpoint scales. Names and meanings are the protocol's; defaults are those of its current documentation.

    Units: `min_load`, `min_cold_load` in work per second, the unit in which clients state `cost`.
    """

    min_load: float = 1.0
    """Floor of the predicted load; above 0 it keeps at least one worker hot."""
    target_util: float = 0.9
    """Hot capacity wanted = predicted load / target_util."""
    cold_mult: float = 3.0
    """Capacity wanted in all, hot and cold, as a multiple of the hot capacity wanted."""
    min_cold_load: float = 0.0
    """Capacity wanted in all, hot and cold, whatever the load."""
    cold_workers: int = 5
    """Least number of workers that are ready or can be soon (hot or stopped). Also spelled `min_workers`."""
    max_workers: int = 16
    """Most workers in any state, at any moment."""
    max_queue_time: float = 30.0
    """Longest expected wait, in seconds, at which a worker still gets requests; beyond it they wait here."""
    target_queue_time: float = 10.0
    """Wait, in seconds, beyond which capacity is added at once."""
    inactivity_timeout: float | None = None
    """Seconds without a request after which the endpoint may go to zero. None or 0: no such gate. Below 0: never."""
    max_usd_h: float | None = None
    """Posthouse's own: never rent or start what would let the endpoint cost more than this per hour. None: no cap."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The values a parameter may have."""

    low: float
    high: float


SCALING_LIMITS: dict[str, Limit] = {
    "min_load": Limit(0, 1e12),
    "target_util": Limit(0.01, 1),
    "cold_mult": Limit(0, 1000),
    "min_cold_load": Limit(0, 1e12),
    "cold_workers": Limit(0, 10_000),
    "max_workers": Limit(0, 10_000),
    "max_queue_time": Limit(0.1, 86_400),
    "target_queue_time": Limit(0.1, 86_400),
    "inactivity_timeout": Limit(-1e9, 1e9),
    "max_usd_h": Limit(0, 1e6),
}
assert set(SCALING_LIMITS) == {f.name for f in fields(Scaling)}


@dataclass(frozen=True, slots=True)
class Endpoint:
    id: EndpointId
    name: str
    scaling: Scaling = field(default_factory=Scaling)
    state: EndpointState = EndpointState.ACTIVE
    key_version: int = 1
    """Raised to revoke the endpoint's key: keys are derived from it."""
    created_at: float = 0.0
