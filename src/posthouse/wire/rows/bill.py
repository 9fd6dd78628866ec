"""What endpoints cost: over time, and beside the least that it could have been."""

from dataclasses import dataclass

from posthouse.wire.rows.base import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class BillDay(Row):
    """One day, in UTC, or all days together. Units: US dollars."""

    begin: float
    """Epoch seconds."""
    recorded_s: float
    """How much of it is recorded, in seconds."""
    requests: int
    usd: float
    """What was paid."""
    least_usd: float
    """The least: machines that did the work that was done, busy all the while, at the price that was paid for them."""
    headroom: float
    """Ready time beyond what whole workers need where nobody waits. This, the next four and `least_usd` are `usd`."""
    starts: float
    """Workers that were created, loaded, updated or in trouble."""
    storage: float
    """Stopped workers."""
    whole_workers: float
    """That a worker cannot be had in parts."""
    waits_not_used: float
    """That requests were begun sooner than they had to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill(Row):
    """What an endpoint cost, day by day."""

    endpoint: str
    wait_s: float
    """How long a request may wait."""
    total: BillDay
    days: list[BillDay]
    what_if: dict[str, str]
    """What would take each part away, in words. `posthouse advise` tries it."""
    changes: dict[str, dict[str, int | float | str]]
    """The same as scaling parameters, where such would: `what-if` plays them."""
    notes: list[str]
    """What is not known, and was assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLine(Row):
    """What one endpoint, key, GPU, provider or state cost, in US dollars."""

    name: str
    usd: float
    usd_of: list[float]
    """In each span of time."""
    deleted: bool = False
    """It is of endpoints that are there no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs(Row):
    """What endpoints cost over time."""

    by: str
    begin: list[float]
    """When each span of time began, in epoch seconds, UTC; the last one goes on."""
    step_s: float
    """How long a span is."""
    usd: float
    """All of it, in US dollars, as are the next two."""
    idle_usd: float
    """By workers that were ready and had no request."""
    storage_usd: float
    """By workers that rested: what their disks cost."""
    lines: list[CostLine]
    """The dearest first; together they are `usd`."""
