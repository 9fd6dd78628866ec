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
    """Where its published ports are reached: `host:port`, or a whole URL where there is a path or a tunnel."""
    disk_gb: float = 0.0
    progress: str = ""
    """Any text that changes while the instance gets on (bytes pulled, last log line, disk used)."""
    message: str = ""
    """What went wrong, for people."""

    def __post_init__(self) -> None:
        assert self.seen in LISTED, self.seen


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """What a private registry asks for before it gives an image away."""

    host: str
    user: str
    password: str = field(repr=False)


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
    num_gpus: int = 0
    """GPUs of the offer it was chosen for."""
    gpu_ram_gb: float = 0.0
    """Estimate of the model's size, of the workergroup; 0 if nobody said."""
    launch_args: str = ""
    """The workergroup's own words for the provider, in whatever language that understands."""
    registry: RegistryLogin | None = None
    """For the image's registry, if its login is among the secrets."""
