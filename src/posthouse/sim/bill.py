"""What an endpoint's traffic cost, day by day, beside the least that it could have cost, and what lies between.

All is of what was recorded: the machines that there were, at what was paid for them. Each step leaves out one thing
more, so the parts add up to the difference by construction. Units: seconds, work, US dollars.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np

from posthouse.domain.lifecycle import State
from posthouse.recording.log import Numbers, unpacked
from posthouse.recording.segment import Segment
from posthouse.sim.record import hours

DAY_S: Final = 86_400.0
MIN_WAIT_S: Final = 0.002
"""Requests are recorded by the millisecond."""
PARTS: Final = ("headroom", "starts", "storage", "whole_workers", "waits_not_used")

Change: TypeAlias = Mapping[str, int | float | str]
"""Scaling parameters with other values."""


@dataclass(frozen=True, slots=True)
class Day:
    """One day, in UTC, or all days together."""

    begin: float
    """Epoch seconds; of all days: of the first."""
    recorded_s: float
    """How much of it is recorded."""
    requests: int
    usd: float
    least_usd: float
    """The least: machines that did as much work as was done, busy all the while."""
    parts: Mapping[str, float]
    """Dollars, by `PARTS`: with `least_usd` they come to `usd`."""


@dataclass(frozen=True, slots=True)
class Bill:
    wait_s: float
    """How long a request may wait."""
    total: Day
    days: Sequence[Day]
    what_if: Mapping[str, str]
    """What would take each part away, in words."""
    changes: Mapping[str, Change]
    """The same as scaling parameters, where such would: to be played."""
    notes: Sequence[str]
    """What is not known, and was assumed."""


@dataclass(slots=True)
class _Sum:
    """What the segments of a day come to."""

    span_s: float = 0.0
    requests: int = 0
    usd: float = 0.0
    ready_usd: float = 0.0
    loading_usd: float = 0.0
    stopped_usd: float = 0.0
    ready_s: float = 0.0
    ready_work: float = 0.0
    unserved: float = 0.0
    at: list[Numbers] = field(default_factory=list)
    work: list[Numbers] = field(default_factory=list)
    assumed: bool = False
    """The split by state was not recorded."""
    dropped: int = 0

    def add(self, segment: Segment) -> None:
        figures = segment.figures
        gaps_ms, work = unpacked(segment.asked)
        self.span_s += segment.until - segment.since
        self.requests += segment.requests
        self.dropped += segment.requests - len(work)
        state_s = {State(name): spent_s for name, spent_s in figures["state_s"].items()}
        split = figures.get("usd_by")
        if split is None:
            self.assumed |= figures["usd"] > 0
            ready_h, loading_h, _ = hours(state_s)
            share = ready_h / (ready_h + loading_h) if ready_h + loading_h else 0.0
            split = {"ready": figures["usd"] * share, "loading": figures["usd"] * (1 - share) if loading_h else 0.0}
            split["stopped"] = figures["usd"] - sum(split.values())
        self.usd += figures["usd"]
        self.ready_usd += split["ready"]
        self.loading_usd += split["loading"]
        self.stopped_usd += figures["usd"] - split["ready"] - split["loading"]
        self.ready_s += state_s.get(State.IDLE, 0.0)
        self.ready_work += figures["ready_work"]
        self.unserved += figures["unserved_work"]
        self.at.append(segment.since + np.cumsum(gaps_ms) / 1000)
        self.work.append(work * (segment.requests / len(work)) if len(work) else work)


def bill(segments: Sequence[Segment], wait_s: float, scaling: Mapping[str, Any]) -> Bill:
    """What the segments come to. `wait_s`: how long a request may wait; `scaling`: the endpoint's parameters now."""
    sums: defaultdict[float, _Sum] = defaultdict(_Sum)
    for segment in sorted(segments, key=lambda segment: segment.since):
        sums[segment.since // DAY_S * DAY_S].add(segment)
    speeds = [work / took for s in segments for work, took in s.figures["served"] if work > 0 and took > 0]
    speed = float(np.median(speeds)) if speeds else math.inf
    days = [_day(begin, found, wait_s, speed) for begin, found in sums.items()]
    parts = {name: sum(day.parts[name] for day in days) for name in PARTS}
    total = Day(
        days[0].begin if days else 0.0,
        sum(day.recorded_s for day in days),
        sum(day.requests for day in days),
        sum(day.usd for day in days),
        sum(day.least_usd for day in days),
        parts,
    )
    what_if, notes = dict(_what_if(parts, wait_s, scaling)), list(_notes(list(sums.values()), speeds))
    return Bill(wait_s, total, days, what_if, _changes(wait_s, scaling), notes)


def _day(begin: float, found: _Sum, wait_s: float, speed: float) -> Day:
    """A day, each step of the way from what was paid to the least.

    Ready time is compared with three needs, the largest first: of whole workers where nobody waits (k of them while
    more than (k - 1) x slots requests are in service), of whole workers where work may be put off by `wait_s`, and of
    the work alone. What was paid beyond the first is headroom. Where less than a need was paid, requests have waited.
    """
    at, work = (np.concatenate(column) if column else np.empty(0) for column in (found.at, found.work))
    asked = float(work.sum())
    done = max(0.0, asked - found.unserved)
    served = done / asked if asked else 0.0
    unit_usd = found.ready_usd / found.ready_work if found.ready_work else 0.0
    perf = found.ready_work / found.ready_s if found.ready_s else 0.0
    alone_usd = min(found.ready_usd, done * unit_usd)
    at_once_usd = put_off_usd = alone_usd
    if perf and len(work):
        slots = max(1, round(perf / speed)) if speed < math.inf else 1
        at_once_s = _at_once_s(at, work, perf / slots, slots)
        put_off_s = min(at_once_s, _put_off_s(at, work, perf, wait_s))
        put_off_usd, at_once_usd = (max(alone_usd, s * perf * unit_usd * served) for s in (put_off_s, at_once_s))
    put_off_usd, at_once_usd = min(found.ready_usd, put_off_usd), min(found.ready_usd, at_once_usd)
    parts = {
        "headroom": found.ready_usd - at_once_usd,
        "starts": found.loading_usd,
        "storage": found.stopped_usd,
        "whole_workers": put_off_usd - alone_usd,
        "waits_not_used": at_once_usd - put_off_usd,
    }
    return Day(begin, found.span_s, found.requests, found.usd, alone_usd, parts)


def _at_once_s(at: Numbers, work: Numbers, speed: float, slots: int) -> float:
    """Seconds of whole workers where each request begins when it comes and has a slot for itself.

    Source: as `keep_alive` in benchmarks/evaluate/bounds.py, without what lies between two needs.
    """
    times = np.concatenate((at, at + work / speed))
    steps = np.concatenate((np.ones(len(at)), -np.ones(len(at))))
    order = np.lexsort((steps, times))  # who leaves makes room for who comes at the same moment
    open_now = np.cumsum(steps[order])[:-1]
    return float((-(-open_now // slots) * np.diff(times[order])).sum())


def _put_off_s(at: Numbers, work: Numbers, perf: float, wait_s: float) -> float:
    """The same where the work that comes in half of `wait_s` is done in the next half, evenly."""
    if wait_s < MIN_WAIT_S:
        return math.inf
    bins = np.floor(at / (wait_s / 2)).astype(np.int64)
    _, which = np.unique(bins, return_inverse=True)
    return float(np.ceil(np.bincount(which, work) / (perf * wait_s / 2) - 1e-9).sum() * wait_s / 2)


def _what_if(parts: Mapping[str, float], wait_s: float, scaling: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What would take each part away."""
    util, cold = scaling.get("target_util", 0.9), scaling.get("cold_workers", 0)
    higher = f"target_util {min(1.0, util + 0.05):.2g} in place of {util:g}"
    yield "headroom", f"{higher}, a lower min_load or a shorter inactivity_timeout"
    yield "starts", "a longer inactivity_timeout or a min_load: workers are stopped less often; or smaller images"
    yield "storage", f"cold_workers {max(0, cold - 1)} in place of {cold}" if cold else "destroying what is stopped"
    yield "whole_workers", "machines of half the size in the workergroups' search"
    yield "waits_not_used", f"slo_mode auto, which uses target_queue_time {wait_s:g}, or a longer max_queue_time"


def _changes(wait_s: float, scaling: Mapping[str, Any]) -> dict[str, Change]:
    """The same as parameters. Machines of another size are none."""
    util, cold, idle_s = (scaling.get(name) for name in ("target_util", "cold_workers", "inactivity_timeout"))
    found: dict[str, Change] = {"starts": {"inactivity_timeout": max(1800.0, 2 * (idle_s or 0.0))}}
    if (higher := round(min(1.0, (util or 0.9) + 0.05), 2)) != util:
        found["headroom"] = {"target_util": higher}
    if cold:
        found["storage"] = {"cold_workers": cold - 1}
    auto = scaling.get("slo_mode") == "auto"
    found["waits_not_used"] = {"target_queue_time": 2 * wait_s} if auto else {"slo_mode": "auto"}
    return found


def _notes(sums: Sequence[_Sum], speeds: Sequence[float]) -> Iterator[str]:
    if not sums:
        yield "nothing is recorded yet: `engine.traffic_log_mb` says how much is kept"
        return
    short = sum(found.span_s < DAY_S - 600 for found in sums[1:-1])
    if short:
        yield f"{short} days are recorded in part: the server was away"
    if any(found.assumed for found in sums):
        yield "what was paid in which state is not recorded of older days: it is split by the time in each"
    if any(found.dropped for found in sums):
        yield "more requests came than are kept one by one: the others are counted as their mean"
    if any(found.usd and not found.ready_work for found in sums):
        yield "on some days no worker has measured itself: all that they cost counts as headroom"
    if not speeds:
        yield "no request was answered by a worker that had no other: that each takes a whole worker is assumed"
