"""A piece of what was asked of an endpoint and what became of it, as it is stored."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the traffic log as it is stored."""

    since: float
    until: float
    requests: int
    """How many came; those that `asked` lacks were dropped."""
    asked: bytes
    """Packed pairs: milliseconds since the request before, or since `since`; and work."""
    waited: bytes
    """Packed pairs of the requests that were given a worker and not at once: milliseconds, work."""
    figures: dict[str, Any]
    """The rest, as data for JSON."""
