"""A worker as it is seen from outside the fleet: what it is, where it stands, what is wanted of it."""

from dataclasses import dataclass, field
from typing import NewType

from posthouse.domain.endpoint import EndpointId, WorkergroupId
from posthouse.domain.lifecycle import BILLED_AS, EXISTS, Billing, Goal, State
from posthouse.domain.offer import ALL_CAPABILITIES, SECONDS_PER_HOUR, Capabilities, Price

WorkerId = NewType("WorkerId", int)


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker, as it was at one moment: the fleet replaces the whole object at every change."""

    id: WorkerId
    endpoint_id: EndpointId
    group_id: WorkergroupId
    label: str
    """What its instance carries at the provider: `posthouse-<installation>-<worker id>`."""
    provider: str
    offer_id: str
    machine: str
    gpu_name: str
    num_gpus: int
    price: Price
    created_at: float
    state: State = State.WANTED
    goal: Goal = Goal.HOT
    since: float = 0.0
    """When the present state began."""
    progressed_at: float = 0.0
    """When it last showed progress in the present state."""
    instance_id: str = ""
    addresses: frozenset[str] = field(default_factory=frozenset)
    """Where the provider placed it, `host:port` or URLs; a reported address is believed only among these."""
    url: str = ""
    """The address it reported, to the letter: the bytes that are signed."""
    version: str = ""
    scheme: str = ""
    """Signature scheme of its generation."""
    perf: float = 0.0
    """Work per second that it says it can do at most; 0 until it has measured itself."""
    loaded_at: float = 0.0
    """When it was first ready; 0 if never."""
    load_s: float = 0.0
    """How long its last way to ready took."""
    spent_usd: float = 0.0
    """Until its present state began; see `spent_at`."""
    message: str = ""
    """What it or its provider last said went wrong, for people."""
    outdated_at: float = 0.0
    """When an update was asked for that it has not had yet; 0 if none."""
    build: str = ""
    """The version that it runs, or was ordered to run; empty if nobody knows."""
    capabilities: Capabilities = ALL_CAPABILITIES
    zone: str = ""
    """Where its machine stands, in its provider's words."""
    failed_at: float = 0.0
    """When a failure of it was last held against its machine; 0 if never."""

    @property
    def began_at(self) -> float:
        """When what is to make it ready began: its start if it was ready before, else its creation."""
        return self.since if self.loaded_at > 0 else self.created_at

    def status(self) -> str:
        """The protocol's word for how it stands; empty for what never goes on the wire."""
        if self.state is State.IDLE and self.goal is Goal.UPDATED:
            return "update_ready"
        return str(self.state) if self.state in EXISTS else ""

    def usd_h(self) -> float:
        """What it costs per hour in its present state."""
        return price_in(self.price, BILLED_AS[self.state])

    def spent_at(self, now: float) -> float:
        """Dollars that it has cost up to `now`: those of its former states, and of the present one so far."""
        return self.spent_usd + self.usd_h() * max(0.0, now - self.since) / SECONDS_PER_HOUR


def price_in(price: Price, billing: Billing) -> float:
    """Dollars per hour at `price` in the billing state."""
    running = {Billing.READY: price.ready_usd_h, Billing.LOADING: price.loading_usd_h}
    return running.get(billing, price.stopped_usd_h if billing is Billing.STOPPED else 0.0)
