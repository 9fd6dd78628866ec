"""The grid of the evaluation: traces and shapes x sizes x start times x draws, each a `Scenario` of the simulator.

Every piece of traffic is written to a file of requests once, so that all policies meet the same one to the last digit
and `posthouse simulate --trace` can replay it. Units: seconds, unless a name says otherwise.
"""

import csv
import gzip
import hashlib
import math
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from random import Random

from benchmarks.evaluate.markets import MARKET_SIZES, MARKET_SPAN_S, MARKET_STARTS, MARKET_WARM_S, MARKETS, ONE_KIND
from posthouse.errors import BadRequest
from posthouse.sim import traffic as shapes
from posthouse.sim.scenario import Scenario, load
from posthouse.sim.trace import Reading, read
from posthouse.sim.traffic import Arrival, Costs

HOUR = 3600.0
SLOTS, PERF, MEAN_COST = 8, 80.0, 100.0
SERVICE_S = MEAN_COST * SLOTS / PERF
"""Of a request of mean cost: 10 s."""
IN_WORK, OUT_WORK = 0.1, 1.0
"""Work of one token: reading is about ten times as fast as writing."""
COST_SPREAD = 0.8
"""Where a trace does not say what a request costs; standard deviation of the logarithm."""
READY_USD_H, STOPPED_USD_H = 0.40, 0.02
SIZES: dict[float, float] = {0.5: 3 * HOUR, 3.0: 1.5 * HOUR, 12.0: HOUR, 60.0: 0.5 * HOUR}
"""Mean busy workers, and how long is scored: the larger, the shorter, so that a run of each takes about as long."""
STARTS = ((5.0, 120.0), (30.0, 300.0), (60.0, 600.0))
"""Medians: from stopped to ready, and from nothing to ready."""
SWEPT = {0.5: STARTS[1], 3.0: STARTS[2]}
"""Where rivals are swept unless all is asked for: sizes, and the start times there. For all there is not the time."""
WARM_S = 900.0
GOALS_S = (1.0, 10.0, 30.0)
GOAL_S = 10.0
JITTER_S = 15.0
"""By how much requests move where a trace is laid over itself: standard deviation."""
LONG_S = 12 * HOUR
"""A trace of at least this length is scored in windows of its second half, and tuned on in windows of its first."""
SHAPES = ("steps", "spikes", "flash-crowd", "outage", "diurnal", "on-off")
LARGE_SHAPES = ("spikes", "diurnal")
"""Those that are run at 60 busy workers as well."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One draw of one scenario."""

    source: str
    """Name of a trace or of a shape."""
    size: float
    """Mean busy workers while it is scored."""
    start_s: float
    create_s: float
    draw: int
    """Which window or seed; the same for every policy."""
    span_s: float
    """How much is scored."""
    warm_s: float = WARM_S
    """Before that: the fleet that was there at the beginning becomes that of the policy."""
    market: str = ONE_KIND
    """What can be rented: one kind of machine, or one of `MARKETS`."""

    @property
    def scenario_name(self) -> str:
        """Of all its draws together."""
        source = self.source if self.market == ONE_KIND else f"{self.source}@{self.market}"
        return f"{source}/{self.size:g}/{self.start_s:g}-{self.create_s:g}"

    @property
    def name(self) -> str:
        return f"{self.scenario_name}/{self.draw}"

    @property
    def swept(self) -> bool:
        """Whether rivals are swept in it, where they are not swept everywhere."""
        return self.draw == 0 and SWEPT.get(self.size) == (self.start_s, self.create_s)

    @property
    def rps(self) -> float:
        return self.size * SLOTS / SERVICE_S


class Trace:
    """A file of traffic, read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name.removesuffix(".gz").removesuffix(".csv")

    @cached_property
    def header(self) -> list[str]:
        """The names of its columns; empty if it is no such file."""
        opened = gzip.open if self.path.suffix == ".gz" else open
        try:
            with opened(self.path, "rt", encoding="utf-8", newline="") as file:
                return [name.strip() for name in next(csv.reader(file), [])]
        except (OSError, UnicodeDecodeError):
            return []

    @property
    def has_rates(self) -> bool:
        return "rps" in self.header

    @property
    def is_traffic(self) -> bool:
        names = set(self.header)
        return "t_s" in names and bool({"rps", "cost"} & names or {"in_tok", "out_tok"} <= names)

    @cached_property
    def requests(self) -> list[Arrival]:
        """Every request of a file of requests."""
        return list(read(self.path, Reading(IN_WORK, OUT_WORK), Costs(MEAN_COST), 0))

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """Every row of a file of rates."""
        opened = gzip.open if self.path.suffix == ".gz" else open
        with opened(self.path, "rt", encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    @cached_property
    def length_s(self) -> float:
        if self.has_rates:
            times = sorted({float(row["t_s"]) for row in self.rows})
            return times[-1] + (times[-1] - times[-2] if len(times) > 1 else 600.0)
        return self.requests[-1][0] + 1.0 if self.requests else 0.0

    def window_s(self, span_s: float, draw: int, tune: bool) -> float:
        """Where a window begins. Of a long trace by day and hour; of a short one, which goes round, anywhere.

        Raises: BadRequest for rates that end before the window would: they do not go round.
        """
        if self.has_rates and self.length_s < span_s:
            raise BadRequest(f"{self.path}: is {self.length_s:g} s long; rates must be given for {span_s:g} s")
        random = Random(f"{self.name}/{draw}/{tune}")
        half = self.length_s / 2
        if self.length_s >= LONG_S and half > span_s:
            hour = random.uniform(0, half - span_s) if half <= 24 * HOUR else _hours(half - span_s, draw, random)
            return (0.0 if tune else half) + hour
        return random.uniform(0, self.length_s - span_s if self.has_rates else self.length_s)

    def arrivals(self, begin_s: float, span_s: float, rps: float, work: Path, seed: str) -> list[Arrival]:
        """At least `rps` requests per second in the mean, from `begin_s` on; costs as the file says."""
        if self.has_rates:
            return self._from_rates(begin_s, span_s, rps, work, seed)
        random = Random(seed)
        piece = self._piece(begin_s, span_s)
        if not piece:
            return []
        copies = max(1, math.ceil(1.1 * rps * span_s / len(piece)))
        laid = [
            ((t + random.gauss(0, JITTER_S)) % span_s if copies > 1 else t, cost)
            for _ in range(copies)
            for t, cost in piece
        ]
        return sorted(laid)

    def _piece(self, begin_s: float, span_s: float) -> list[Arrival]:
        """The requests of a window; after its last second a trace begins again."""
        piece: list[Arrival] = []
        at, times = 0.0, [t for t, _ in self.requests]
        begin_s %= self.length_s
        while at < span_s:
            end_s = min(self.length_s, begin_s + span_s - at)
            low, high = bisect_left(times, begin_s), bisect_left(times, end_s)
            piece += [(t - begin_s + at, cost) for t, cost in islice(self.requests, low, high)]
            at += max(end_s - begin_s, 1e-9)
            begin_s = 0.0
        return piece

    def _from_rates(self, begin_s: float, span_s: float, rps: float, work: Path, seed: str) -> list[Arrival]:
        times = sorted({float(row["t_s"]) for row in self.rows})
        bin_s = min((b - a for a, b in pairwise(times)), default=600.0)
        rows = [row for row in self.rows if begin_s - bin_s < float(row["t_s"]) < begin_s + span_s]
        mean = sum(float(row["rps"]) for row in rows) / max(1, len({row["t_s"] for row in rows}))
        if mean <= 0:
            return []
        piece = work / f"rates-{_digest(seed)}.csv"
        with piece.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.header)
            writer.writeheader()
            writer.writerows(rows)
        reading = Reading(IN_WORK, OUT_WORK, 1.2 * rps / mean, begin_s, span_s)
        found = list(read(piece, reading, Costs(MEAN_COST, COST_SPREAD), int(_digest(seed), 16)))
        piece.unlink()
        return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _hours(most_s: float, draw: int, random: Random) -> float:
    """A start in a trace of many days: night, morning, afternoon and evening take turns."""
    day = random.randrange(max(1, int(most_s // (24 * HOUR))))
    return min(most_s, (day * 24 + (2, 9, 15, 20)[draw % 4] + random.uniform(0, 1)) * HOUR)


def _shape(name: str, t: float, span_s: float) -> float:
    """Relative load of a shape at a time of the scored span; before it, that of its beginning."""
    t = max(0.0, t)
    if name == "steps":
        return (0.4, 1.0, 1.6, 0.7, 1.3, 0.4)[min(5, int(6 * t / span_s))]
    if name == "spikes":
        return 3.0 if t % 900.0 >= 780.0 else 0.7
    if name == "flash-crowd":
        since = t - 0.3 * span_s
        return 0.6 if since < 0 else 0.6 + 3.0 * min(1.0, since / 60.0) * math.exp(-since / 900.0)
    if name == "outage":
        at = t / span_s
        return 0.0 if 0.35 <= at < 0.5 else 1.8 if 0.5 <= at < 0.55 else 1.0
    if name == "diurnal":
        return 1.0 - 0.7 * math.cos(2 * math.pi * t / min(span_s, 2 * HOUR))
    return 1.9 if t % 1800.0 < 900.0 else 0.1  # on-off


def _made_up(cell: Cell, seed: str) -> list[Arrival]:
    span_s, warm_s = cell.warm_s + cell.span_s, cell.warm_s
    highest = 4.0
    scale = 1.5 * cell.rps * MEAN_COST

    def load_at(t: float) -> float:
        return scale * _shape(cell.source, t - warm_s, cell.span_s)

    costs = Costs(MEAN_COST, COST_SPREAD)
    return list(shapes.poisson(load_at, highest * scale, costs, span_s, Random(seed)))


def _fitted(arrivals: Sequence[Arrival], cell: Cell, seed: str) -> Iterator[Arrival]:
    """Thinned out to the rate of the cell, with costs that come to its size."""
    warm_s = cell.warm_s
    scored = [cost for t, cost in arrivals if t >= warm_s]
    if not scored:
        return
    kept = min(1.0, cell.rps * cell.span_s / len(scored))
    random = Random(f"{seed}/thinning")
    chosen = [(t, cost) for t, cost in arrivals if random.random() < kept]
    work = sum(cost for t, cost in chosen if t >= warm_s)
    factor = cell.size * PERF * cell.span_s / work if work else 1.0
    for t, cost in chosen:
        yield t, max(cost, 0.01 * MEAN_COST / factor) * factor


class Grid:
    """The cells of an evaluation, and the scenarios that they are."""

    def __init__(self, traces: Sequence[Trace], work: Path, tune: bool = False, quick: bool = False) -> None:
        """`work`: where pieces of traffic are kept. `tune`: other windows and seeds than those that are scored."""
        self.traces = {trace.name: trace for trace in traces}
        self.tune, self.work = tune, work / "traffic"
        self.work.mkdir(parents=True, exist_ok=True)
        self.cells = list(self._quick() if quick else self._all())

    def _all(self) -> Iterator[Cell]:
        for size, span_s in SIZES.items():
            draws = range(1 if size >= 60 else 2)
            for source in self.traces:
                for start_s, create_s in STARTS:
                    for draw in draws:
                        yield Cell(source, size, start_s, create_s, draw, span_s)
            turn = list(SIZES).index(size)
            for number, source in enumerate(SHAPES if size < 60 else LARGE_SHAPES):
                yield Cell(source, size, *STARTS[(number + turn) % len(STARTS)], 0, span_s)
        for market in MARKETS:
            for size in MARKET_SIZES:
                for source in (*self.traces, *SHAPES):
                    yield Cell(source, size, *MARKET_STARTS, 0, MARKET_SPAN_S, MARKET_WARM_S, market)

    def _quick(self) -> Iterator[Cell]:
        for source in [*list(self.traces)[:1], "spikes", "on-off"]:
            for size in (0.5, 3.0):
                yield Cell(source, size, *STARTS[0], 0, 0.5 * HOUR)

    def scenario(self, cell: Cell) -> Scenario:
        """What a policy meets in a cell; `policy` is still to be said."""
        path = self._traffic(cell)
        most = max_workers(cell)
        span = {"median": cell.start_s, "p95": 2 * cell.start_s}
        half = {"median": cell.create_s / 2, "p95": cell.create_s}
        common = {"create_s": half, "load_s": half, "start_s": span, "available": most}
        if cell.market == ONE_KIND:
            workers = [
                {
                    "perf": PERF,
                    "slots": SLOTS,
                    "ready_usd_h": READY_USD_H,
                    "stopped_usd_h": STOPPED_USD_H,
                    "ready": math.ceil(1.3 * cell.size),
                    "stopped": 2 * math.ceil(1.3 * cell.size) + 3,
                    "per_host": 8 if most >= 64 else 1,
                    "refused": 0.03,
                    "crashes_h": 0.005,
                    **common,
                }
            ]
        else:
            workers = [
                {**common, "stopped_usd_h": STOPPED_USD_H * float(kind["perf"]) / PERF, **kind}
                for kind in MARKETS[cell.market]
            ]
        return load(
            None,
            {
                "traffic": {"trace": str(path), "span_s": cell.warm_s + cell.span_s},
                "scaling": {"min_load": 0.0, "max_workers": most},
                "workers": workers,
                "seed": cell.draw + (1000 if self.tune else 0),
                "goal_s": GOAL_S,
                "warm_s": cell.warm_s,
            },
        )

    def _traffic(self, cell: Cell) -> Path:
        split = "tune" if self.tune else "score"
        path = self.work / f"{split}-{cell.name.replace('/', '_')}-{cell.span_s:g}.csv"
        if path.exists():
            return path
        seed = f"{split}/{cell.name}"
        span_s = cell.warm_s + cell.span_s
        trace = self.traces.get(cell.source)
        if trace is None:
            found = _made_up(cell, seed)
        else:
            begin_s = trace.window_s(span_s, cell.draw, self.tune)
            found = trace.arrivals(begin_s, span_s, cell.rps, self.work, seed)
        if not any(t >= cell.warm_s for t, _ in found):
            raise BadRequest(f"{cell.name}: there is no request in the part of the trace that would be scored")
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["t_s", "cost"])
            writer.writerows([f"{t:.3f}", f"{cost:.3f}"] for t, cost in _fitted(found, cell, seed))
        unfinished.replace(path)
        return path


def max_workers(cell: Cell) -> int:
    """More than any policy should want: about four times what the highest minute needs."""
    return int(8 * cell.size) + 12


def traces_in(paths: Sequence[Path]) -> list[Trace]:
    """The traces among files and folders. Raises: BadRequest for a named file that is none."""
    found: list[Trace] = []
    for path in paths:
        if path.is_dir():
            inside = [Trace(p) for p in sorted(path.iterdir()) if p.name.endswith((".csv", ".csv.gz"))]
            found += [trace for trace in inside if trace.is_traffic]
        elif (trace := Trace(path)).is_traffic:
            found.append(trace)
        else:
            raise BadRequest(
                f"{path}: is no trace; a CSV file is needed with `t_s` and `rps`, or `cost`, or `in_tok` and `out_tok`"
            )
    return found
