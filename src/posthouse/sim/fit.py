"""What an endpoint's record tells of its machines: how long they take to start and load, and how they serve."""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np

from posthouse.domain.lifecycle import State
from posthouse.fleet.load import SERVICE_RANK
from posthouse.recording.decode import Machines, Piece, Reply
from posthouse.sim.world import Pace

QUANTILES = 20
"""By how many steps measured times are described."""
MIN_SPREAD = 0.2
"""Below this coefficient of variation of their work, requests do not tell what each takes beside its work."""
ANSWER_S = Pace().answer_s
"""What a simulated provider takes to answer; measured times have it in them."""
MAX_AVAILABLE = 10_000


def workers(reply: Reply, pieces: Sequence[Piece]) -> tuple[list[dict[str, Any]], list[str]]:
    """The endpoint's machines as a scenario describes them, and what of that is an assumption."""
    in_state = {state: sum(p.figures.state_s.get(state, 0.0) for p in pieces) for state in State}
    starts = [s for p in pieces for s in p.figures.start_s]
    creations = [s for p in pieces for s in p.figures.create_s]
    served = [pair for p in pieces for pair in p.figures.served if pair[0] > 0]
    kinds = [kind for kind in reply.kinds if kind.workers or kind.available]
    perfs = [kind.perf for kind in kinds if kind.perf > 0]
    ready_work = sum(p.figures.ready_work for p in pieces)
    if len(kinds) == 1 and ready_work > 0:
        perfs = [ready_work / in_state[State.IDLE]]  # what they could do all the while, and not the latest alone
    times = _times(starts or [reply.start_s], creations or [reply.create_s], in_state)
    rows = [_row(kind, len(kinds) > 1, perfs, served) | times for kind in kinds] or [times]
    return rows, [
        *_assumed_times(reply, starts, creations, in_state),
        *_assumed_service(kinds, perfs, served),
    ]


def _assumed_times(
    reply: Reply, starts: Sequence[float], creations: Sequence[float], in_state: dict[State, float]
) -> Iterator[str]:
    if not starts:
        yield f"no start from stopped was seen: {reply.start_s:.4g} s is assumed"
    if not creations:
        yield f"no creation of a worker was seen: {reply.create_s:.4g} s is assumed"
    if in_state[State.ERROR] + in_state[State.UNAVAIL]:
        yield "some of its workers failed or fell silent; in the simulation none does"


def _assumed_service(
    kinds: Sequence[Machines], perfs: Sequence[float], served: Sequence[tuple[float, float]]
) -> Iterator[str]:
    if not kinds:
        yield "it has no workers and could have none: a nominal one is assumed"
    elif not perfs:
        yield "no worker has measured itself yet: a nominal one is assumed; see --perf and --slots"
    elif not served:
        yield "no request was answered yet: that each takes a whole worker is assumed; see --slots"


def _times(starts: Sequence[float], creations: Sequence[float], in_state: dict[State, float]) -> dict[str, Any]:
    """How long a start, a creation and a load take; a creation is divided as the time in their states was."""
    making_s, loading_s = in_state[State.CREATING] + in_state[State.LOADING], in_state[State.MODEL_LOADING]
    share = making_s / (making_s + loading_s) if making_s + loading_s else 0.5
    return {
        "start_s": _spread(starts, 1.0),
        "create_s": _spread(creations, share),
        "load_s": _spread(creations, 1.0 - share),
    }


def _row(
    kind: Machines, is_one_of_many: bool, perfs: Sequence[float], served: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """A kind of machine as a scenario describes it."""
    row: dict[str, Any] = {
        "gpu": kind.kind,
        "agent": kind.agent,
        "ready_usd_h": kind.ready_usd_h,
        "loading_usd_h": kind.loading_usd_h,
        "stopped_usd_h": kind.stopped_usd_h,
        "available": min(MAX_AVAILABLE, kind.workers + kind.available),
    }
    if perfs:
        row["perf"] = kind.perf if kind.perf > 0 and is_one_of_many else median(perfs)
        row["slots"], row["overhead_s"] = _service(served, row["perf"])
    return row


def _spread(times_s: Sequence[float], share: float) -> dict[str, Any]:
    """Measured times as quantiles, each by `share`, without what a simulated provider takes to answer."""
    steps = np.linspace(0.0, 1.0, min(QUANTILES, len(times_s)) + 1) if len(times_s) > 1 else np.array([0.5])
    values = np.maximum(0.0, np.quantile(times_s, steps) - ANSWER_S) * share
    return {"quantiles": [[float(q), round(float(v), 3)] for q, v in zip(steps, values, strict=True)]}


def _service(served: Sequence[tuple[float, float]], perf: float) -> tuple[int, float]:
    """How many requests a worker serves at once, and the seconds that each takes beside its work.

    Seconds = overhead + work x slots / perf. Those that were served beside others, or whose end was reported late, lie
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
