"""An endpoint's own traffic, played again: from its segments, with its own parameters and its own workers.

Seconds are counted from the beginning of the record; the time in which the server was away is left out.
"""

import base64
import binascii
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from statistics import median
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from posthouse.domain.errors import BadRequest, NotFound
from posthouse.domain.lifecycle import COMING, Command, State
from posthouse.domain.offer import SECONDS_PER_HOUR
from posthouse.fleet.service import SERVICE_RANK
from posthouse.recording.log import Numbers, unpacked
from posthouse.sim.record import Sample, Waits, commands, hours
from posthouse.sim.scenario import Scenario, Traffic, load
from posthouse.sim.traffic import Arrival
from posthouse.sim.world import Pace

LEAD_S = 3600.0
"""How long before its count a replay begins, where the endpoint had workers already."""
QUANTILES = 20
"""By how many steps measured times are described."""
MIN_SPREAD = 0.2
"""Below this coefficient of variation of their work, requests do not tell what each takes beside its work."""
PICTURE = 72
"""Most samples of what really happened."""
ANSWER_S = Pace().answer_s
"""What a simulated provider takes to answer; measured times have it in them."""


class _Figures(msgspec.Struct, frozen=True):
    workers: int
    state_s: dict[State, float]
    usd: float
    ready_work: float
    given: dict[Command, int]
    unserved: int
    unserved_work: float
    start_s: list[float]
    create_s: list[float]
    served: list[tuple[float, float]]


class _Segment(msgspec.Struct, frozen=True):
    since: float
    until: float
    requests: int
    asked: str
    waited: str
    figures: _Figures


class _Kind(msgspec.Struct, frozen=True):
    kind: Annotated[str, Meta(min_length=1)]
    perf: float
    ready_usd_h: float
    loading_usd_h: float
    stopped_usd_h: float
    workers: int
    available: int
    agent: bool


class _Reply(msgspec.Struct, frozen=True):
    endpoint: str
    scaling: dict[str, Any]
    kinds: list[_Kind]
    start_s: float
    create_s: float
    segments: list[_Segment]


class Played(Traffic, frozen=True, kw_only=True):
    """Recorded requests, those before `from_s` to warm up with."""

    at_s: Any
    """When each came, rising; an array of numbers, as `work` is."""
    work: Any
    from_s: float
    lead_s: float
    """How much of what comes first is a lead; where the record has less before `from_s`, its beginning is played."""

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """As they were, or thinned out by `scale`."""
        random, until_s = Random(f"{seed}/thinning"), self.from_s + self.span_s - self.lead_s
        lead_from_s = self.from_s - self.lead_s if self.lead_s <= self.from_s else 0.0
        for begin_s, end_s, shift_s in (
            (lead_from_s, lead_from_s + self.lead_s, 0.0),
            (self.from_s, until_s, self.lead_s),
        ):
            first, end = np.searchsorted(self.at_s, (begin_s, end_s))
            for at_s, work in zip(self.at_s[first:end].tolist(), self.work[first:end].tolist(), strict=True):
                if self.scale == 1 or random.random() < self.scale:
                    yield at_s - begin_s + shift_s, work


@dataclass(frozen=True, slots=True)
class Measured:
    """What really happened, in the measures of a simulated run that the server knows."""

    span_s: float
    requests: int
    unserved: int
    """Went away before they had a worker."""
    usd: float
    ready_h: float
    loading_h: float
    stopped_h: float
    rents: int
    starts: int
    stops: int
    destroys: int
    route_s: Waits
    route_over_goal: float
    goal_s: float
    busy: float

    def json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Piece:
    begin_s: float
    end_s: float
    requests: int
    at_s: Numbers
    work: Numbers
    wait_s: Numbers
    wait_work: Numbers
    figures: _Figures


@dataclass(frozen=True, slots=True)
class Recording:
    """What an endpoint was asked, what became of it, and what a scenario of it is."""

    endpoint: str
    pieces: Sequence[_Piece]
    at_s: Numbers
    work: Numbers
    layer: Mapping[str, Any]
    """Parameters and workers, as a scenario says them."""
    notes: Sequence[str]
    """What is not known and was assumed."""

    @property
    def span_s(self) -> float:
        return self.pieces[-1].end_s

    def snapped(self, begin_s: float, end_s: float) -> tuple[float, float]:
        """The same part of the record, widened to where segments begin and end. Raises: BadRequest for none of it."""
        if not begin_s < min(end_s, self.span_s):
            raise BadRequest(f"the record of {self.endpoint} is {self.span_s:.0f} s long: nothing of it is asked for")
        inside = [p for p in self.pieces if p.end_s > begin_s and p.begin_s < end_s]
        return inside[0].begin_s, inside[-1].end_s

    def requests(self, begin_s: float, end_s: float) -> int:
        first, end = np.searchsorted(self.at_s, (begin_s, end_s))
        return int(end - first)

    def scenario(self, *changes: Mapping[str, Any], begin_s: float = 0.0, end_s: float | None = None) -> Scenario:
        """The part of the record as a scenario, with `changes` over what the endpoint is. Raises: BadRequest."""
        until_s = self.span_s if end_s is None else end_s
        begun = self.pieces[0].figures.workers > 0
        lead_s = min(LEAD_S, begin_s or (until_s if begun else 0.0))
        given = load(None, self.layer, *changes)
        if given.traffic.scale > 1:
            raise BadRequest(
                f"scale is {given.traffic.scale:g}; requests can only be thinned out: 0 to 1, or give workers less perf"
            )
        played = Played(
            at_s=self.at_s,
            work=self.work,
            from_s=begin_s,
            lead_s=lead_s,
            span_s=lead_s + until_s - begin_s,
            scale=given.traffic.scale,
        )
        return msgspec.structs.replace(given, traffic=played, warm_s=lead_s)

    def measured(self, goal_s: float, begin_s: float = 0.0, end_s: float | None = None) -> Measured:
        """What really happened in a part of the record."""
        until_s = self.span_s if end_s is None else end_s
        inside = [p for p in self.pieces if begin_s <= p.begin_s and p.end_s <= until_s]
        figures = [p.figures for p in inside]
        state_s = {state: sum(f.state_s.get(state, 0.0) for f in figures) for state in State}
        given = {command: sum(f.given.get(command, 0) for f in figures) for command in Command}
        requests, unserved = sum(p.requests for p in inside), sum(f.unserved for f in figures)
        waits, wait_work = (np.concatenate([getattr(p, n) for p in inside]) for n in ("wait_s", "wait_work"))
        at_once = np.zeros(max(0, requests - unserved - len(waits)))
        work = sum(_work(p) for p in inside)
        unserved_work = sum(f.unserved_work for f in figures)
        late = float(wait_work[waits > goal_s].sum()) + unserved_work
        ready_work = sum(f.ready_work for f in figures)
        ready_h, loading_h, stopped_h = hours(state_s)
        rents, starts, stops, destroys = commands(given)
        return Measured(
            span_s=round(sum(p.end_s - p.begin_s for p in inside), 3),
            requests=requests,
            unserved=unserved,
            usd=round(sum(f.usd for f in figures), 6),
            ready_h=round(ready_h, 4),
            loading_h=round(loading_h, 4),
            stopped_h=round(stopped_h, 4),
            rents=rents,
            starts=starts,
            stops=stops,
            destroys=destroys,
            route_s=Waits.of(array("d", np.concatenate([at_once, waits]).tobytes())),
            route_over_goal=round(min(1.0, late / work), 6) if work else 0.0,
            goal_s=goal_s,
            busy=round((work - unserved_work) / ready_work, 4) if ready_work else 0.0,
        )

    def samples(self, begin_s: float, end_s: float) -> list[Sample]:
        """What there was, segment by segment, at even distances. What was needed nobody wrote down."""
        number = max(1, min(PICTURE, int((end_s - begin_s) / 10)))
        times = [begin_s + (i + 0.5) * (end_s - begin_s) / number for i in range(number)]
        ends = [p.end_s for p in self.pieces]
        found = [self.pieces[min(int(np.searchsorted(ends, t)), len(ends) - 1)] for t in times]
        return [_sample(t - begin_s, piece) for t, piece in zip(times, found, strict=True)]


def _work(piece: _Piece) -> float:
    """Work that was asked, with that of the requests that were dropped."""
    kept = len(piece.work)
    return float(piece.work.sum()) * (piece.requests / kept) if kept else 0.0


def _sample(t: float, piece: _Piece) -> Sample:
    span_s, state_s = piece.end_s - piece.begin_s, piece.figures.state_s
    coming_s = sum(state_s.get(state, 0.0) for state in COMING)
    return Sample(
        t=t,
        load=_work(piece) / span_s,
        need=0.0,
        ready=piece.figures.ready_work / span_s,
        waiting=round(float(piece.wait_s.sum()) / span_s),  # Little's law
        hot=round(state_s.get(State.IDLE, 0.0) / span_s),
        coming=round(coming_s / span_s),
        cold=round(state_s.get(State.STOPPED, 0.0) / span_s),
        usd_h=piece.figures.usd / span_s * SECONDS_PER_HOUR,
    )


def recording(reply: Mapping[str, Any]) -> Recording:
    """What the server's answer to `traffic` says. Raises: BadRequest where it is of another version, NotFound where
    nothing was recorded yet."""
    try:
        said = msgspec.convert(reply, _Reply)
        pieces = list(_pieces(said.segments))
    except (msgspec.ValidationError, binascii.Error, ValueError) as error:
        raise BadRequest(f"the server's record is of another version: {error}") from None
    if not any(len(p.at_s) for p in pieces):
        raise NotFound(
            f"there is no recorded traffic of {said.endpoint} yet: send it requests, and see that the server's "
            "`engine.traffic_log_mb` is not 0"
        )
    workers, notes = _workers(said, pieces)
    return Recording(
        said.endpoint,
        pieces,
        np.concatenate([p.at_s for p in pieces]),
        np.concatenate([p.work for p in pieces]),
        {"scaling": said.scaling, "workers": workers},
        notes,
    )


def _pieces(segments: Sequence[_Segment]) -> Iterator[_Piece]:
    begin_s = 0.0
    for segment in sorted(segments, key=lambda segment: segment.since):
        gaps_ms, work = unpacked(base64.b64decode(segment.asked, validate=True))
        wait_ms, wait_work = unpacked(base64.b64decode(segment.waited, validate=True))
        span_s = segment.until - segment.since
        if span_s <= 0:
            continue
        at_s = begin_s + np.minimum(np.cumsum(gaps_ms) / 1000, span_s)
        end_s = begin_s + span_s
        yield _Piece(begin_s, end_s, segment.requests, at_s, work, wait_ms / 1000, wait_work, segment.figures)
        begin_s = end_s


def _workers(said: _Reply, pieces: Sequence[_Piece]) -> tuple[list[dict[str, Any]], list[str]]:
    """The endpoint's machines as a scenario says them, and what of that is an assumption."""
    notes = []
    starts = [s for p in pieces for s in p.figures.start_s]
    creations = [s for p in pieces for s in p.figures.create_s]
    if not starts:
        notes.append(f"no start from stopped was seen: {said.start_s:.4g} s is assumed")
    if not creations:
        notes.append(f"no creation of a worker was seen: {said.create_s:.4g} s is assumed")
    in_state = {state: sum(p.figures.state_s.get(state, 0.0) for p in pieces) for state in State}
    making_s, loading_s = in_state[State.CREATING] + in_state[State.LOADING], in_state[State.MODEL_LOADING]
    if in_state[State.ERROR] + in_state[State.UNAVAIL]:
        notes.append("some of its workers failed or fell silent; in the simulation none does")
    share = making_s / (making_s + loading_s) if making_s + loading_s else 0.5
    times = {
        "start_s": _spread(starts or [said.start_s], 1.0),
        "create_s": _spread(creations or [said.create_s], share),
        "load_s": _spread(creations or [said.create_s], 1.0 - share),
    }
    kinds = [kind for kind in said.kinds if kind.workers or kind.available]
    known = [kind.perf for kind in kinds if kind.perf > 0]
    ready_work = sum(p.figures.ready_work for p in pieces)
    if len(kinds) == 1 and ready_work > 0:
        known = [ready_work / in_state[State.IDLE]]  # what they could do all the while, and not the latest alone
    if not kinds:
        notes.append("it has no workers and could have none: a nominal one is assumed")
        return [times], notes
    served = [pair for p in pieces for pair in p.figures.served if pair[0] > 0]
    if not known:
        notes.append("no worker has measured itself yet: a nominal one is assumed; see --perf and --slots")
    elif not served:
        notes.append("no request was answered yet: that each takes a whole worker is assumed; see --slots")
    rows = []
    for kind in kinds:
        row: dict[str, Any] = {
            "gpu": kind.kind,
            "agent": kind.agent,
            "ready_usd_h": kind.ready_usd_h,
            "loading_usd_h": kind.loading_usd_h,
            "stopped_usd_h": kind.stopped_usd_h,
            "available": min(10_000, kind.workers + kind.available),
            **times,
        }
        if known:
            row["perf"] = kind.perf if kind.perf > 0 and len(kinds) > 1 else median(known)
            row["slots"], row["overhead_s"] = _service(served, row["perf"])
        rows.append(row)
    return rows, notes


def _spread(times_s: Sequence[float], share: float) -> dict[str, Any]:
    """Measured times as quantiles, each by `share`, without what a simulated provider takes to answer."""
    steps = np.linspace(0.0, 1.0, min(QUANTILES, len(times_s)) + 1) if len(times_s) > 1 else np.array([0.5])
    values = np.maximum(0.0, np.quantile(times_s, steps) - ANSWER_S) * share
    return {"quantiles": [[float(q), round(float(v), 3)] for q, v in zip(steps, values, strict=True)]}


def _service(served: Sequence[tuple[float, float]], perf: float) -> tuple[int, float]:
    """How many requests a worker serves at once, and the seconds that each takes beside its work.

    Seconds = overhead + work x slots / perf. Those that were served beside others, or whose end was told late, lie
    above that line, and few lie below it: the fastest tell where it is.
    """
    if not served:
        return 1, 0.0
    work, took_s = np.array(served).T
    unit_s = float(np.median(took_s / work))
    if len(served) > 2 and work.std() > MIN_SPREAD * work.mean():
        fitted_s, base_s = np.polyfit(work, took_s, 1)
        for _ in range(5):
            free = took_s <= base_s + fitted_s * work + 0.05
            if free.sum() < 3 or work[free].std() == 0:
                break
            fitted_s, base_s = np.polyfit(work[free], took_s[free], 1)
        if fitted_s > 0 and base_s >= 0:
            unit_s = float(fitted_s)
    slots = min(10_000, max(1, round(unit_s * perf)))
    return slots, round(max(0.0, float(np.quantile(took_s - work * slots / perf, SERVICE_RANK))), 4)
