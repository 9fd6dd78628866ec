"""An instance: what a provider has, as it lists it. A worker is what we make of it."""

from dataclasses import dataclass, field

from posthouse.domain.lifecycle import Observation
from posthouse.domain.offer import Price

LISTED = frozenset(
    {Observation.PROVISIONING, Observation.PULLING, Observation.RUNNING, Observation.HALTED, Observation.EXITED}
)
"""What a provider may say of an instance in its list."""


@dataclass(frozen=True, slots=True)
class Instance:
    id: str
    label: str
    seen: Observation
    """One of `LISTED`."""
    addresses: frozenset[str] = field(default_factory=frozenset)
    """Where its published ports are reached: `host:port`, or a whole URL where there is a path or a tunnel."""
    disk_gb: float = 0.0
    progress: str = ""
    """Any text that changes while the instance gets on (bytes pulled, last log line, disk used)."""
    message: str = ""
    """What went wrong, for people."""
    price: Price | None = None
    """What it costs now, where its provider says that."""
    away: bool = False
    """Its machine is away, for which its provider charges as if it were stopped."""

    def __post_init__(self) -> None:
        assert self.seen in LISTED, self.seen
