"""Which parameters would have served an endpoint's recorded traffic better, and what that is worth.

Searched on the first two thirds of the record, judged on the rest, which the search does not see. Deterministic.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from posthouse.domain.endpoint import PARAMETERS
from posthouse.sim.record import Summary
from posthouse.sim.recorded import Recording
from posthouse.sim.run import run
from posthouse.sim.scenario import Scenario

MIN_S = 3600.0
MIN_REQUESTS = 100
"""Of a record that can tell anything."""
SEARCHED = 2 / 3
"""Share of the record on which is searched."""
COARSE_S, COARSE_REQUESTS, COARSE_TICK_S = 86_400.0, 20_000, 5.0
"""Every setting is tried on the latest of that part, so much of it, with so long between decisions."""
FINALISTS = 3
"""So many of the best are tried on all of it, as the server would decide."""
PASSES = 3
"""Times that each parameter is gone through."""
WORTH = 0.01
"""A saving below this share is none."""
NOTHING = 0.002
"""A change that makes less than this share is taken back."""
LATE_STEP = 0.001
"""Shares of work over the goal that differ by less are the same."""

Change = dict[str, Any]
"""Parameters by name; those that are not here stay."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What to change; nothing where `change` is empty."""

    change: Change
    present: Mapping[str, Any]
    """The values now of what is to change."""
    searched_s: float
    checked_s: float
    tried: int
    """Settings."""
    before: Summary
    """The present setting, on the part that the search did not see."""
    after: Summary
    """The other one there; the same as `before` where nothing is to change."""
    part: tuple[float, float]
    """That part."""


def too_short(recording: Recording) -> str:
    """Why the record cannot tell yet; empty if it can."""
    requests = len(recording.at_s)
    if recording.span_s >= MIN_S and requests >= MIN_REQUESTS:
        return ""
    return (
        f"too little is recorded to tell: {recording.span_s / 60:.0f} min with {requests} requests; "
        f"an hour and {MIN_REQUESTS} requests are the least"
    )


@dataclass(slots=True)
class Search:
    """A search over settings. `layers`: what lies over the record, such as prices."""

    recording: Recording
    goal_s: float
    late_share: float
    """Share of work that may wait longer than the goal."""
    layers: Sequence[Mapping[str, Any]] = ()
    progress: Callable[[str, int], object] = lambda what, tried: None
    """Called with what is being tried, and how many settings were."""
    tried: int = 0
    _present: dict[str, Any] = field(default_factory=dict)
    _seen: dict[tuple[tuple[str, Any], ...], tuple[float, ...]] = field(default_factory=dict)

    def advice(self) -> Advice:
        """The best setting that holds on the part that was not searched, too."""
        recording = self.recording
        _, cut_s = recording.snapped(0.0, recording.span_s * SEARCHED)
        check = (cut_s, recording.span_s)
        self._present = dict(self._scenario({}, *check).scaling)
        coarse = self._coarse(cut_s)
        found = self._climb(coarse)
        finalists = self._finals(found, (0.0, cut_s))
        before = after = self._run("the present setting", {}, *check)
        change: Change = {}
        for finalist in finalists:
            tried = self._run(_words(finalist), finalist, *check)
            if self._better(tried, before):
                change, after = finalist, tried
                break
        present = {name: self._present.get(name) for name in change}
        checked_s = check[1] - check[0]
        return Advice(change, present, cut_s, checked_s, len(self._seen), before, after, check)

    def score(self, summary: Summary) -> tuple[float, ...]:
        """Less is better: first what is late beyond what may be, then dollars, then all that is late."""
        beyond = max(0.0, summary.over_goal - self.late_share)
        return round(beyond / LATE_STEP), summary.usd, summary.over_goal

    # -- inside --------------------------------------------------------------------------------------------------------

    def _coarse(self, end_s: float) -> tuple[float, float]:
        """The latest of the searched part: a day, or less where many requests came, and never less than an hour."""
        at_s = self.recording.at_s
        end = int(np.searchsorted(at_s, end_s))
        begin_s = float(at_s[end - COARSE_REQUESTS]) if end > COARSE_REQUESTS else 0.0
        begin_s = min(max(begin_s, end_s - COARSE_S), max(0.0, end_s - MIN_S))
        return self.recording.snapped(begin_s, end_s)

    def _climb(self, part: tuple[float, float]) -> list[Change]:
        """Settings, the best first: one parameter after another is set to what was best while the others stood."""
        best: Change = {}
        best_score = self._tried(best, part)
        for _ in range(PASSES):
            before = best
            for options in self._options(part):
                for option in options:
                    change = self._pruned({**best, **option})
                    score = self._tried(change, part)
                    if score < best_score:
                        best, best_score = change, score
            if best == before:
                break
        for name in sorted(best):  # what makes no difference is not worth a change
            less = {n: v for n, v in best.items() if n != name}
            score = self._tried(less, part)
            if score[0] <= best_score[0] and score[1] <= best_score[1] * (1 + NOTHING):
                best, best_score = less, score
        others = sorted(self._seen, key=lambda key: self._seen[key])
        found = [best, *(dict(key) for key in others)]
        return [change for i, change in enumerate(found) if change and change not in found[:i]][:FINALISTS]

    def _finals(self, found: Sequence[Change], part: tuple[float, float]) -> list[Change]:
        """Those of `found` that are better than the present setting on all of the part, the best first."""
        present = self._run("the present setting", {}, *part)
        tried = [(self._run(_words(change), change, *part), change) for change in found]
        better = [(self.score(summary), i) for i, (summary, _) in enumerate(tried) if self._better(summary, present)]
        return [tried[i][1] for _, i in sorted(better)]

    def _better(self, one: Summary, other: Summary) -> bool:
        """True if it is late less often than it may not be, or as often and worth while cheaper."""
        mine, theirs = self.score(one), self.score(other)
        return mine[0] < theirs[0] or (mine[0] == theirs[0] and mine[1] < theirs[1] * (1 - WORTH))

    def _options(self, part: tuple[float, float]) -> Iterator[list[Change]]:
        """What each parameter may be; those that mean something only together, together."""
        begin_s, end_s = part
        first, end = np.searchsorted(self.recording.at_s, part)
        load = _two_digits(float(self.recording.work[first:end].sum()) / (end_s - begin_s))
        floors = sorted({1.0, *(_two_digits(load * f) for f in (0.5, 1.0, 1.5, 2.0))} - {0.0})
        most = int(self._present.get("max_workers") or PARAMETERS["max_workers"].high)
        yield [{"slo_mode": "fixed"}, {"slo_mode": "auto", "target_util": 1.0, "cold_workers": 0}]
        yield [{"cold_workers": n} for n in (0, 1, 2, 3, 5, 8) if n <= most]
        yield [{"cold_mult": x} for x in (1.0, 1.5, 2.0, 3.0, 4.0)]
        yield [
            *({"min_load": 0.0, "inactivity_timeout": s} for s in (None, 300.0, 900.0, 3600.0)),
            *({"min_load": load, "inactivity_timeout": None} for load in floors),
        ]
        yield [{"target_util": x} for x in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)]
        yield [{"target_queue_time": s} for s in (1.0, 2.0, 5.0, 10.0, 20.0)]
        yield [{"max_queue_time": s} for s in (1.0, 5.0, 10.0, 30.0, 60.0)]

    def _pruned(self, change: Change) -> Change:
        return {name: value for name, value in sorted(change.items()) if value != self._present.get(name)}

    def _tried(self, change: Change, part: tuple[float, float]) -> tuple[float, ...]:
        key = tuple(sorted(change.items()))
        if key not in self._seen:
            self._seen[key] = self.score(self._run(_words(change), change, *part, tick_s=COARSE_TICK_S))
        return self._seen[key]

    def _run(self, what: str, change: Change, begin_s: float, end_s: float, tick_s: float | None = None) -> Summary:
        self.progress(what, self.tried)
        scenario = self._scenario(change, begin_s, end_s, {} if tick_s is None else {"tick_s": tick_s})
        self.tried += 1
        return run(scenario).summary

    def _scenario(self, change: Change, begin_s: float, end_s: float, *more: Mapping[str, Any]) -> Scenario:
        over = {"goal_s": self.goal_s, "scaling": {n: "none" if v is None else v for n, v in change.items()}}
        return self.recording.scenario(*self.layers, over, *more, begin_s=begin_s, end_s=end_s)


def per_month(advice: Advice) -> float:
    """Dollars saved in 30 days like the part that was checked; below 0 where it costs more."""
    return (advice.before.usd - advice.after.usd) / advice.checked_s * 30 * 86_400


def priced(recording: Recording) -> bool:
    """True if workers cost anything."""
    return any(kind.get("ready_usd_h", 1.0) > 0 for kind in recording.layer["workers"])


def in_worker_hours(recording: Recording) -> Recording:
    """The same, where a worker costs 1 an hour, and 0.05 while it is stopped."""
    price = {"ready_usd_h": 1.0, "loading_usd_h": 1.0, "stopped_usd_h": 0.05}
    workers = [{**kind, **price} for kind in recording.layer["workers"]]
    return replace(recording, layer={**recording.layer, "workers": workers})


def _words(change: Change) -> str:
    return ", ".join(f"{name} {value}" for name, value in change.items()) or "the present setting"


def _two_digits(value: float) -> float:
    if value <= 0:
        return 0.0
    return round(value, 1 - math.floor(math.log10(value)))
