"""Aliases: names of models that stand for endpoints."""

from dataclasses import dataclass, field

from posthouse.wire.fallback import FAULTS, Fault
from posthouse.wire.rows.base import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasTarget(Row):
    """Where requests to an alias go."""

    model: str
    """An endpoint, or another alias."""
    weight: float = 1.0
    """Its share of the requests, beside the weights of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasFallback(Row):
    """Where requests go that failed before their first byte."""

    model: str
    """An endpoint, another alias, or as the last one `external:NAME`."""
    faults: list[Fault] = field(default_factory=lambda: list(FAULTS[:3]))
    """For which classes of errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias(Row):
    """A name that callers may give as `model`."""

    name: str
    targets: list[AliasTarget]
    """One is drawn for each request."""
    fallbacks: list[AliasFallback] = field(default_factory=list)
    """Tried in this order where the target fails."""
    wait_s: float | None = None
    """How long a request waits for a worker before it goes on to a fallback; null: as long as the gateway holds it."""
    created_at: float = 0.0
