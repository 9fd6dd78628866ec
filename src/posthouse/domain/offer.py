"""An offer: a machine, or a share of one, that a provider would let us have at a price."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from posthouse.domain.endpoint import WorkergroupId

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Price:
    """What a worker costs in each billing state. Units: US dollars per hour, the one currency there is."""

    ready_usd_h: float = 0.0
    loading_usd_h: float = 0.0
    stopped_usd_h: float = 0.0

    @property
    def running_usd_h(self) -> float:
        """The most a worker costs per hour while it is not stopped."""
        return max(self.ready_usd_h, self.loading_usd_h)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Of one worker: what is not here is never asked of its provider."""

    stop: bool = True
    """It can be stopped and started again, and keeps its disk meanwhile. Without it there are no cold workers."""
    update: bool = True
    """It can run another template where it is. Without it a worker is replaced."""
    logs: bool = True
    """What it prints can be read."""
    interruptible: bool = False
    """Its provider may take the machine away at any time, for somebody who pays more."""


ALL_CAPABILITIES = Capabilities()


@dataclass(frozen=True, slots=True)
class Offer:
    id: str
    """The provider's own name for it."""
    provider: str
    machine: str
    """The host behind it; failures are remembered by host."""
    price: Price
    """Without a disk, if `disk_usd_gb_h` says what that costs."""
    gpu_name: str = ""
    num_gpus: int = 0
    available: int = 1
    """How many workers this offer can still take."""
    capabilities: Capabilities = ALL_CAPABILITIES
    gpu_ram_mb: float = 0.0
    """Of each GPU."""
    zone: str = ""
    """Where it stands, in the provider's words."""
    keeps_files: bool = False
    """What a worker downloaded is kept on the machine for the next one, as a model is."""
    reliability: float = 1.0
    """Share of the time that the machine is up, by its provider's count: 0 to 1."""
    expires_at: float = 0.0
    """When the machine leaves the provider; 0 if no end is known."""
    disk_usd_gb_h: float = 0.0
    """What each GB of disk adds to the price, in every billing state."""
    max_disk_gb: float = math.inf
    attributes: Mapping[str, object] = field(default_factory=dict, hash=False)
    """What else a search may ask for, in the protocol's names and units, such as `cpu_ram` in MB."""


@dataclass(frozen=True, slots=True)
class GroupOffer:
    """An offer that satisfies the filters of one workergroup."""

    group_id: WorkergroupId
    offer: Offer
