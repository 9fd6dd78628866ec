"""What people did, and whether the record of it is whole."""

from dataclasses import dataclass
from typing import Any

from posthouse.wire.rows.base import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Act(Row):
    """One thing that somebody changed or did by hand."""

    id: int
    """From 1, without gaps."""
    at: float
    account: str
    """Whose thing it was."""
    via: str
    """How it was done: `key`, `console`, `server` (by itself, at a start) or `nobody` where no key is needed."""
    key_id: str
    """The key that was shown."""
    key_name: str
    """What that was called then."""
    call: str
    """Method and path of the call."""
    request_id: str
    """The `X-Request-ID` of the call's answer."""
    action: str
    """What was done: `endpoint.update`, `worker.drain`."""
    subject: str
    """Id of the thing, or its name where it has no id."""
    name: str
    """What it, or its endpoint, was called then."""
    endpoint_id: int
    """The endpoint that it is or belongs to; 0 if none."""
    before: dict[str, Any]
    """What it said in the fields that changed; all of them, of something that was deleted. Secrets are left out."""
    after: dict[str, Any]
    """What it says since; all fields, of something new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActCheck(Row):
    """What a look at every row of the record found."""

    ok: bool
    rows: int
    """How many are kept."""
    first_id: int
    """Older ones were dropped, to keep the record within its bound."""
    head: str
    """ID:HASH of the last row. Note it elsewhere: shown again as `head`, it tells whether the record was cut since."""
    problems: list[str]
    """What was changed, removed or added, the first 20."""
