"""An endpoint: a named group of workers that serve one model, and the parameters by which it scales."""

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Literal, NewType

from posthouse.domain.account import DEFAULT_ACCOUNT, AccountId

EndpointId = NewType("EndpointId", int)
SloMode = Literal["fixed", "auto"]
SLO_MODES: tuple[SloMode, ...] = ("fixed", "auto")


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
    """Wait, in seconds, beyond which capacity is added: so much that the queue is gone in that time and a start."""
    inactivity_timeout: float | None = None
    """Seconds without a request before it may go to zero. None: 20 starts. 0: no such gate. Below 0: never."""
    max_usd_h: float | None = None
    """Posthouse's own: never rent or start what would let the endpoint cost more than this per hour. None: no cap."""
    slo_mode: SloMode = "fixed"
    """Posthouse's own. `auto`: as much capacity as keeps waits within `target_queue_time`, by queueing theory, not by
    fixed ratios; `target_util` and `cold_mult` are then upper bounds, the other parameters lower ones."""


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
assert {*SCALING_LIMITS, "slo_mode"} == {f.name for f in fields(Scaling)}


def defaults(slo_mode: object) -> Scaling:
    """The parameters of a new endpoint that names only its mode. In `auto` the fixed ratios' own bounds do not bind."""
    return Scaling(slo_mode="auto", target_util=1.0, cold_workers=0) if slo_mode == "auto" else Scaling()


@dataclass(frozen=True, slots=True)
class Endpoint:
    id: EndpointId
    name: str
    scaling: Scaling = field(default_factory=Scaling)
    state: EndpointState = EndpointState.ACTIVE
    key_version: int = 1
    """Raised to revoke the endpoint's key: keys are derived from it."""
    created_at: float = 0.0
    account_id: AccountId = DEFAULT_ACCOUNT
    """Its owner. Names are unique per owner."""
    revision: int = 0
    """Raised by the store at every change, so that no server overwrites what another has just written."""
