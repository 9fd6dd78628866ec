"""What an endpoint has learned about its workers."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Estimates:
    perf: dict[str, float] = field(default_factory=dict)
    """Work per second by kind of machine."""
    work_per_usd: dict[str, float] = field(default_factory=dict)
    """Work per second for each dollar per hour, by kind of machine; only of those that cost something."""
    success_rate: dict[str, float] = field(default_factory=dict)
    """Share of new workers that come to be ready, by kind of machine, where not all of them did recently."""
    create_s_of: dict[str, float] = field(default_factory=dict)
    """Seconds from nothing to ready, by kind of machine."""
    start_s: float = 30.0
    """Seconds from stopped to ready."""
    create_s: float = 120.0
    """Seconds from nothing to ready."""
