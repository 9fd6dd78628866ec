"""What a worker told of itself, and what was seen of it, in units that are the same for every generation."""

from dataclasses import dataclass
from math import exp

from posthouse.domain.load import Report

FADES_OVER_S = 60.0
"""Time constant of the mean load: as long as the load of an endpoint is averaged over."""
LEAST_SPAN_S = 1.0
"""Shortest span by which work is divided: workers report once a second, and a repeat may follow at once."""


@dataclass(slots=True)
class Figures:
    """The latest figures of one worker. Units: work, work per second, GB, seconds."""

    at: float
    """When it last reported."""
    taken: float = 0.0
    """Work that it took on between its last two reports."""
    done_rate: float = 0.0
    """Work per second that it did between its last two reports."""
    disk_gb: float = 0.0
    """What its disk holds."""
    mean_load: float = 0.0
    """Outstanding work at its last report, as a mean in which what was before fades."""
    away_s: float = 0.0
    """How long it has been unavail in all, but for the present time."""

    def take(self, report: Report, outstanding: float, now: float) -> None:
        """Takes in a report, with the work that the worker has at that moment."""
        span_s = max(LEAST_SPAN_S, now - self.at)
        self.taken = report.taken + report.taken_rate * span_s
        self.done_rate = report.done_rate + report.done / span_s
        self.disk_gb = report.disk_gb or max(0.0, self.disk_gb + report.disk_added_gb)
        self.mean_load = self.mean_load_at(now, outstanding)
        self.at = now

    def mean_load_at(self, now: float, outstanding: float) -> float:
        """The mean load, if the worker has had `outstanding` work since its last report."""
        return outstanding + (self.mean_load - outstanding) * exp((self.at - now) / FADES_OVER_S)

    def reliability(self, loaded_at: float, away_since: float, now: float) -> float:
        """Share of the time since it was first ready that it was not unavail; 1 before that.

        `away_since`: since when it is unavail or failed; `now` if it is not.
        """
        span_s = now - loaded_at
        return 1.0 - min(1.0, (self.away_s + now - away_since) / span_s) if loaded_at and span_s > 0 else 1.0
