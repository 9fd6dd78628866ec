"""What a run came to: money, worker-hours, waits; and how it went on the way."""

from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from posthouse.domain.lifecycle import BILLED_AS, Billing, Command, State
from posthouse.domain.offer import SECONDS_PER_HOUR
from posthouse.sim.client import Client


@dataclass(slots=True)
class Sample:
    """What there was at one moment. Units: seconds; work per second; dollars per hour."""

    t: float
    load: float
    """Offered since the sample before."""
    need: float
    ready: float
    waiting: int
    hot: int
    coming: int
    cold: int
    usd_h: float


@dataclass(slots=True)
class Record:
    """Waits, and samples on the way."""

    wait_s: "array[float]" = field(default_factory=lambda: array("d"))
    """From the first ask until a slot of a worker began on it, for each answered request."""
    route_s: "array[float]" = field(default_factory=lambda: array("d"))
    """From the first ask until the request had a worker."""
    work: "array[float]" = field(default_factory=lambda: array("d"))
    unserved: int = 0
    unserved_work: float = 0.0
    requests: int = 0
    offered: float = 0.0
    samples: list[Sample] = field(default_factory=list)

    def end(self, client: Client) -> None:
        """Adds a request that has ended."""
        if client.answered_at:
            self.wait_s.append(client.began_at - client.asked_at)
            self.route_s.append(client.assigned_at - client.asked_at)
            self.work.append(client.cost)
        else:
            self.unserved += 1
            self.unserved_work += client.cost


@dataclass(frozen=True, slots=True)
class Waits:
    """Units: seconds."""

    mean: float
    p50: float
    p95: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: "array[float]") -> "Waits":
        if not values:
            return cls(0.0, 0.0, 0.0, 0.0, 0.0)
        found = np.frombuffer(values, dtype=np.float64)
        p50, p95, p99 = np.percentile(found, [50, 95, 99])
        return cls(*(round(float(v), 3) for v in (found.mean(), p50, p95, p99, found.max())))


@dataclass(frozen=True, slots=True)
class Summary:
    """One run in numbers."""

    policy: str
    seed: int
    span_s: float
    requests: int
    answered: int
    unserved: int
    """Given up, or not answered when the run ended."""
    unserved_work: float
    """Their share of all work."""
    usd: float
    """Until the traffic ended."""
    ready_h: float
    """Worker-hours."""
    loading_h: float
    """On the way to ready, and in trouble."""
    stopped_h: float
    rents: int
    starts: int
    stops: int
    destroys: int
    wait_s: Waits
    """From the first ask until a slot of a worker began on the request."""
    route_s: Waits
    """From the first ask until the request had a worker."""
    over_goal: float
    """Share of work that waited longer than the goal, or forever."""
    route_over_goal: float
    """Share of work that waited longer than that until it had a worker, or forever."""
    goal_s: float
    busy: float
    """Work done as a share of what ready workers could have done."""

    def json(self) -> dict[str, Any]:
        return asdict(self)


def hours(state_s: Mapping[State, float]) -> tuple[float, float, float]:
    """Worker-hours ready, otherwise running, and stopped."""
    tiers = {"ready": 0.0, "loading": 0.0, "stopped": 0.0}
    for state, spent_s in state_s.items():
        if state is State.IDLE:
            tiers["ready"] += spent_s
        elif BILLED_AS[state] is Billing.STOPPED:
            tiers["stopped"] += spent_s
        elif BILLED_AS[state] is not Billing.NOTHING:
            tiers["loading"] += spent_s
    ready_s, loading_s, stopped_s = tiers.values()
    return ready_s / SECONDS_PER_HOUR, loading_s / SECONDS_PER_HOUR, stopped_s / SECONDS_PER_HOUR


def share_over(record: Record, goal_s: float, unfinished_work: float, until_routed: bool = False) -> float:
    """Share of work that waited longer than `goal_s`, for service or until it had a worker, or was not served."""
    wait_s = record.route_s if until_routed else record.wait_s
    late = record.unserved_work + unfinished_work
    total = late
    if wait_s:
        waits, work = np.frombuffer(wait_s), np.frombuffer(record.work)
        late += float(work[waits > goal_s].sum())
        total += float(work.sum())
    return late / total if total else 0.0


def commands(given: Mapping[Command, int]) -> tuple[int, int, int, int]:
    """How many rents, starts, stops and destructions."""
    return given[Command.RENT], given[Command.START], given[Command.STOP], given[Command.DESTROY]
