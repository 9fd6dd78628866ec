"""What a worker reported, and what was seen of it, in the same units for every generation of workers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import exp, expm1

from posthouse.domain.reports import Report

FADES_OVER_S = 60.0
"""Time constant of the mean load: as long as the load of an endpoint is averaged over."""
MIN_SPAN_S = 1.0
"""Shortest span by which work is divided: workers report once a second, and a repeat may follow at once."""


@dataclass(slots=True)
class WorkerStats:
    """The latest figures of one worker. Units: work, work per second, GB, seconds."""

    at: float
    """When it last reported."""
    taken: float = 0.0
    """Work that it took on between its last two reports."""
    done_rate: float = 0.0
    """Work per second that it did between its last two reports."""
    disk_gb: float = 0.0
    """What its disk holds."""
    ended_load: float = 0.0
    """What ended requests still add to its mean load at `ended_at`."""
    ended_at: float = 0.0
    """When one last ended."""
    away_s: float = 0.0
    """How long it has been unavail in all, but for the present time."""
    adapters: Mapping[str, str] | None = None
    """What it calls each adapter that it holds, by the adapter's name; None: it has not said."""

    def take(self, report: Report, now: float) -> None:
        """Updates the figures with a report."""
        span_s = max(MIN_SPAN_S, now - self.at)
        self.taken = report.taken + report.taken_rate * span_s
        self.done_rate = report.done_rate + report.done / span_s
        self.disk_gb = report.disk_gb or max(0.0, self.disk_gb + report.disk_added_gb)
        self.at = now
        if self.adapters is None or len(report.adapters) + len(self.adapters):
            self.adapters = {word.rpartition(":")[2]: word for word in report.adapters}

    def ended(self, cost: float, took_s: float, now: float) -> None:
        """Notes that a request left the worker, `took_s` after it came."""
        self.ended_load = self.mean_load(now, ((cost, took_s),))
        self.ended_at = now

    def mean_load(self, now: float, there: Iterable[tuple[float, float]]) -> float:
        """Outstanding work, as a mean over time in which what was earlier fades.

        `there`: cost of each request that it has, and for how long. Each adds to the mean the integral of its cost over
        that time under exp(-age / FADES_OVER_S) / FADES_OVER_S.
        """
        fresh = sum(-cost * expm1(-span_s / FADES_OVER_S) for cost, span_s in there)
        return self.ended_load * exp((self.ended_at - now) / FADES_OVER_S) + fresh

    def reliability(self, loaded_at: float, away_since: float, now: float) -> float:
        """Share of the time since it was first ready that it was not unavail; 1 before that.

        `away_since`: since when it is unavail or failed; `now` if it is not.
        """
        span_s = now - loaded_at
        return 1.0 - min(1.0, (self.away_s + now - away_since) / span_s) if loaded_at and span_s > 0 else 1.0
