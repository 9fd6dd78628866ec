"""What really happened to an endpoint, in the measures of a simulated run."""

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from posthouse.domain.lifecycle import COMING, Command, State
from posthouse.domain.offer import SECONDS_PER_HOUR
from posthouse.recording.decode import Piece
from posthouse.sim.record import Sample, Waits, commands, hours

PICTURE = 72
"""Most samples of what really happened."""


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


def measured(inside: Sequence[Piece], goal_s: float) -> Measured:
    """What really happened in some pieces of a record. `goal_s`: a wait above it counts as late."""
    figures = [p.figures for p in inside]
    state_s = {state: sum(f.state_s.get(state, 0.0) for f in figures) for state in State}
    given = {command: sum(f.given.get(command, 0) for f in figures) for command in Command}
    requests, unserved = sum(p.requests for p in inside), sum(f.unserved for f in figures)
    waits, wait_work = (np.concatenate([getattr(p, n) for p in inside]) for n in ("wait_s", "wait_work"))
    at_once = np.zeros(max(0, requests - unserved - len(waits)))
    work = sum(p.asked_work() for p in inside)
    unserved_work = sum(f.unserved_work for f in figures)
    late = float(wait_work[waits > goal_s].sum()) + unserved_work
    ready_work = sum(f.ready_work for f in figures)
    ready_h, loading_h, stopped_h = hours(state_s)
    rents, starts, stops, destroys = commands(given)
    return Measured(
        span_s=round(sum(p.span_s for p in inside), 3),
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


def samples(pieces: Sequence[Piece], begin_s: float, end_s: float) -> list[Sample]:
    """What there was, segment by segment, at even distances. What was needed nobody wrote down."""
    number = max(1, min(PICTURE, int((end_s - begin_s) / 10)))
    times = [begin_s + (i + 0.5) * (end_s - begin_s) / number for i in range(number)]
    ends = [p.end_s for p in pieces]
    found = [pieces[min(int(np.searchsorted(ends, t)), len(ends) - 1)] for t in times]
    return [_sample(t - begin_s, piece) for t, piece in zip(times, found, strict=True)]


def _sample(t: float, piece: Piece) -> Sample:
    span_s, state_s = piece.span_s, piece.figures.state_s
    coming_s = sum(state_s.get(state, 0.0) for state in COMING)
    return Sample(
        t=t,
        load=piece.asked_work() / span_s,
        need=0.0,
        ready=piece.figures.ready_work / span_s,
        waiting=round(float(piece.wait_s.sum()) / span_s),  # Little's law
        hot=round(state_s.get(State.IDLE, 0.0) / span_s),
        coming=round(coming_s / span_s),
        cold=round(state_s.get(State.STOPPED, 0.0) / span_s),
        usd_h=piece.figures.usd / span_s * SECONDS_PER_HOUR,
    )
