"""An instance: what a provider has, as it lists it. A worker is what we make of it."""

from dataclasses import dataclass, field

from posthouse.domain.lifecycle import Observation

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
    """`host:port` pairs at which its published ports are reached."""
    disk_gb: float = 0.0
    progress: str = ""
    """Any text that changes while the instance gets on (bytes pulled, last log line, disk used)."""
    message: str = ""
    """What went wrong, for people."""

    def __post_init__(self) -> None:
        assert self.seen in LISTED, self.seen


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """What a provider is asked to create."""

    label: str
    worker_id: int
    image: str
    onstart: str
    disk_gb: float
    env: dict[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = (3000,)
    """Ports inside the instance that must be reachable from outside; the first is the worker's own."""
