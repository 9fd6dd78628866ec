"""A worker as it is seen from outside the fleet: what it is, where it stands, what is wanted of it."""

from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import NewType

from posthouse.domain.capabilities import ALL_CAPABILITIES, Capabilities
from posthouse.domain.endpoint import EndpointId
from posthouse.domain.lifecycle import BILLED_AS, STATUS_ON_WIRE, Billing, Goal, State
from posthouse.domain.offer import SECONDS_PER_HOUR, Price
from posthouse.domain.workergroup import WorkergroupId

WorkerId = NewType("WorkerId", int)


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker. The fleet replaces it whole at every change, so whoever holds one holds a fact."""

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
    message: str = ""
    """What it or its provider last said went wrong, for people."""
    outdated_at: float = 0.0
    """When an update was asked for that it has not had yet; 0 if none."""
    capabilities: Capabilities = ALL_CAPABILITIES

    @property
    def began_at(self) -> float:
        """When what is to make it ready began: its start if it was ready before, else its creation."""
        return self.since if self.loaded_at > 0 else self.created_at

    def billing(self) -> Billing:
        return BILLED_AS[self.state]

    def status(self) -> str:
        """The protocol's word for how it stands; empty for what never goes on the wire."""
        if self.state is State.IDLE and self.goal is Goal.UPDATED:
            return "update_ready"
        return STATUS_ON_WIRE.get(self.state, "")

    def usd_h(self) -> float:
        """What it costs per hour in its present state."""
        return price_in(self.price, self.billing())

    def with_spend(self, span_s: float) -> "Worker":
        """The same worker after `span_s` more seconds in its present state."""
        cost_usd = self.usd_h() * span_s / SECONDS_PER_HOUR
        if cost_usd <= 0:
            return self
        values = list(_VALUES(self))  # `replace` takes three times as long, and every change of state adds up all
        values[_SPENT] += cost_usd
        return Worker(*values)


_NAMES = [f.name for f in fields(Worker)]
_VALUES, _SPENT = attrgetter(*_NAMES), _NAMES.index("spent_usd")


def price_in(price: Price, billing: Billing) -> float:
    """Dollars per hour at `price` in the billing state."""
    match billing:
        case Billing.READY:
            return price.ready_usd_h
        case Billing.LOADING:
            return price.loading_usd_h
        case Billing.STOPPED:
            return price.stopped_usd_h
        case Billing.NOTHING:
            return 0.0
