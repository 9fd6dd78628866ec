"""What a decision is made from, and what it says."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from posthouse.domain.demand import Demand
from posthouse.domain.endpoint import Endpoint, WorkergroupId
from posthouse.domain.estimates import Estimates
from posthouse.domain.lifecycle import Goal
from posthouse.domain.offer import GroupOffer
from posthouse.domain.rollout import Rollout
from posthouse.domain.worker import Worker, WorkerId


@dataclass(frozen=True, slots=True)
class Failures:
    """Failures of one workergroup, machine or worker that no success has made up for."""

    count: int = 0
    last_at: float = 0.0
    machines: tuple[str, ...] = ()
    """Of a workergroup: where new workers did not come to be ready."""


@dataclass(frozen=True, slots=True)
class Cap:
    """The most that an endpoint may come to cost now, beside its own `max_usd_h`."""

    usd_h: float
    name: str
    """The name of the cap that allows no more."""
    text: str = ""
    """The same with what is left, which changes all the time."""
    last: "Cap | None" = None
    """The most that it may cost with what drains: that is ended beyond."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a decision may use."""

    now: float
    endpoint: Endpoint
    workers: tuple[Worker, ...]
    """Every worker that is not DESTROYED."""
    demand: Demand
    offers: tuple[GroupOffer, ...]
    estimates: Estimates
    busy: frozenset[WorkerId] = frozenset()
    """Workers that have requests on them."""
    group_failures: Mapping[WorkergroupId, Failures] = field(default_factory=dict)
    machine_failures: Mapping[str, Failures] = field(default_factory=dict)
    held_against: Mapping[str, float] = field(default_factory=dict)
    """How many workers failed on each machine, each counting half as much after an hour."""
    loaded_on: Collection[tuple[WorkergroupId, str]] = ()
    """Machines on which a worker of a workergroup came to be ready."""
    resting: frozenset[WorkerId] = frozenset()
    """Workers whose start was refused a moment ago: others start sooner."""
    outliers: frozenset[WorkerId] = frozenset()
    """Workers at which requests failed recently."""
    stabilized_at: float = 0.0
    """No scale-down before this time: after a restart the load is not known yet."""
    cap: Cap | None = None
    rollouts: Mapping[WorkergroupId, Rollout] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a decision hands to the next one: recent needs, so that capacity is not dropped at the first lull."""

    hot_needs: tuple[tuple[float, float], ...] = ()
    """(time, hot capacity needed), decreasing in need: a sliding maximum over the hold."""
    total_needs: tuple[tuple[float, float], ...] = ()
    """The same for hot and cold capacity together, over a longer hold."""
    released_at: float = 0.0
    """When a hot worker was last let go."""
    hour_rate: float = 0.0
    """Offered work per second, mean of the last hour: exponentially weighted."""
    at: float = -math.inf
    """When that was so; without it the present stands for the hour."""
    compared_at: float = 0.0
    """When offers of other providers were last compared with what serves."""


@dataclass(frozen=True, slots=True)
class Rental:
    offer: GroupOffer
    goal: Goal
    canary: bool = False
    """It is the first to run the new version."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One line of the explanation: a quantity, its value, and the rule that gave it."""

    what: str
    value: float | str
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Obstacle(Reason):
    """What prevents the endpoint from getting workers that it needs."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What an endpoint should look like, and why."""

    at: float
    hot_need: float
    """Hot capacity wanted, in work per second."""
    hot_supply: float
    """Hot capacity that is there or coming, after this decision."""
    ready_supply: float
    """Hot capacity that is ready now."""
    goals: Mapping[WorkerId, Goal]
    """Only the goals that change."""
    rentals: tuple[Rental, ...]
    memory: Memory
    because: tuple[Reason, ...]
    ended: frozenset[WorkerId] = frozenset()
    """Workers that go or rest at once, with the requests that they have."""
