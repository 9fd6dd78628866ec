"""An offer: a machine, or a share of one, that a provider would let us have at a price."""

from dataclasses import dataclass

from posthouse.domain.workergroup import WorkergroupId

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Price:
    """What a worker costs in each billing state. Units: US dollars per hour."""

    ready_usd_h: float = 0.0
    loading_usd_h: float = 0.0
    stopped_usd_h: float = 0.0


@dataclass(frozen=True, slots=True)
class Offer:
    id: str
    """The provider's own name for it."""
    provider: str
    machine: str
    """The host behind it; failures are remembered by host."""
    price: Price
    gpu_name: str = ""
    num_gpus: int = 0
    available: int = 1
    """How many workers this offer can still take."""


@dataclass(frozen=True, slots=True)
class GroupOffer:
    """An offer that satisfies the filters of one workergroup."""

    group_id: WorkergroupId
    offer: Offer
