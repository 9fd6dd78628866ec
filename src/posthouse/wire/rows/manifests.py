"""What becomes of manifests."""

from dataclasses import dataclass, field
from typing import Literal

from posthouse.wire.rows.base import Row

Plain = str | float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Row):
    """What a field is, and what it becomes."""

    before: Plain
    """null: there is none."""
    after: Plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Row):
    """One thing that is made, changed or deleted."""

    how: Literal["create", "change", "delete"]
    what: str
    """Its kind and its name or id, like `endpoint chat`."""
    note: str = ""
    fields: dict[str, Difference] = field(default_factory=dict)
    """By the names that manifests have. Variables whose names have TOKEN, KEY, SECRET or PASSW are `***`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestStatus(Row):
    """What there is of a manifest."""

    endpoint_id: int | None = None
    template_id: int | None = None
    """Of the endpoint's own template."""
    workergroup_ids: list[int] = field(default_factory=list)
    applied_at: float | None = None
    """When it was last applied; null if it never was: it is what the server has."""
    changes: list[Change] = field(default_factory=list)
    """What the call has changed, or would with `dry_run`."""
    drift: list[Change] = field(default_factory=list)
    """What has been changed since it was applied, as the same PUT would take it back."""
    most_usd_h: float | None = None
    """US dollars that the endpoint comes to cost per hour at most, by what is offered now; null: not known."""
    most: str = ""
    """The same in words."""
