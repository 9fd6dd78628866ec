"""What nobody can beat: the least that traffic can cost anybody who knew all of it before.

Two bounds. A linear program, in which workers are divisible and requests too, with a wait that is permitted; and the
exact least with whole workers where nobody waits. Units: seconds, work, dollars.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posthouse.domain.offer import SECONDS_PER_HOUR
from posthouse.sim.scenario import Scenario, Spread, Workers
from posthouse.sim.traffic import Arrival

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Kind:
    """One type of worker."""

    perf: float
    slots: int
    ready_usd_h: float
    loading_usd_h: float
    stopped_usd_h: float
    start_s: float
    """From stopped to ready; billed as ready."""
    create_s: float
    """From nothing to ready; billed as loading."""
    available: int

    @classmethod
    def of(cls, worker: Workers) -> "Kind":
        loading_usd_h = worker.ready_usd_h if worker.loading_usd_h is None else worker.loading_usd_h
        create_s = _median(worker.create_s) + _median(worker.load_s)
        prices = worker.ready_usd_h, loading_usd_h, worker.stopped_usd_h
        return cls(worker.perf, worker.slots, *prices, _median(worker.start_s), create_s, worker.available)

    @property
    def speed(self) -> float:
        """Work per second on one request."""
        return self.perf / self.slots


def _median(span: float | Spread) -> float:
    """Not above the mean, so that what follows from it stays a bound."""
    return span.median if isinstance(span, Spread) else span


def bins_s(scenario: Scenario) -> float:
    return 10.0 if scenario.traffic.span_s - scenario.warm_s <= 3 * SECONDS_PER_HOUR else 15.0


def clairvoyant(scenario: Scenario, wait_s: float, missed: float = 0.0) -> float:
    """Dollars below which no policy comes that begins on all work but a share `missed` within `wait_s`.

    Of the part of a scenario that is counted; what there is when that begins is free.
    """
    arrivals = [(t - scenario.warm_s, cost) for t, cost in scenario.traffic.arrivals(scenario.seed)]
    kinds = [Kind.of(worker) for worker in scenario.workers]
    span_s = scenario.traffic.span_s - scenario.warm_s
    return least_usd(arrivals, kinds, span_s, bins_s(scenario), wait_s, missed)


def least_usd(
    arrivals: Iterable[Arrival],
    kinds: Sequence[Kind],
    span_s: float,
    bin_s: float,
    wait_s: float,
    missed: float = 0.0,
    whole: bool = False,
) -> float:
    """The optimum of the program, in dollars. `whole`: whole workers, each for whole bins; no bound any more.

    For each bin k and type g: x ready workers, z that exist, u started, v created; S work done since the beginning, E
    of it exempted. A request may begin when it comes and must begin `wait_s` later, and then takes its time, so

        D(k) - E(k) <= S(k) <= U(k),    S(k) - S(k-1) <= bin x sum_g perf x(g, k),    E(end) <= missed x all work
        x(k) <= z(k) <= available,      x(k) - x(k-1) <= u(k) + v(k),                 z(k) - z(k-1) <= v(k)

    where U and D are the work done if each request begins at once on the fastest type, or at the last moment on the
    slowest. What is on its way when it begins may arrive for nothing.
    """
    bins = round(span_s / bin_s)
    ends: Floats = np.arange(1, bins + 1, dtype=np.float64) * np.float64(bin_s)
    came = np.array([(t, cost) for t, cost in arrivals if 0 <= t < span_s]).reshape(-1, 2)
    if not len(came):
        return 0.0
    begin, cost = came[:, 0], came[:, 1]
    most = _done(begin, cost, max(kind.speed for kind in kinds), ends)
    least = _done(begin + wait_s, cost, min(kind.speed for kind in kinds), ends)
    program = _Program(bins)
    done, exempt = program.new(0.0, most), program.new(0.0, np.inf)
    now, before = np.arange(bins), np.arange(bins - 1)
    later = before + 1
    # Rows are `sum of (factor x variable) <= limit`.
    program.rows(-least, (-1.0, done, now), (-1.0, exempt, now))
    program.rows(np.zeros(bins - 1), (-1.0, exempt, later), (1.0, exempt, before))
    program.rows(np.array([missed * cost.sum()]), (1.0, exempt, now[-1:]))
    program.rows(np.zeros(bins - 1), (1.0, done, before), (-1.0, done, later))
    able: list[tuple[float, int, NDArray[np.intp]]] = []
    for kind in kinds:
        hour = SECONDS_PER_HOUR
        ready_usd = (kind.ready_usd_h - kind.stopped_usd_h) * bin_s / hour
        ready = program.new(ready_usd, kind.available, whole)
        there = program.new(kind.stopped_usd_h * bin_s / hour, kind.available, whole)
        start_usd = np.where(ends > 2 * kind.start_s, kind.ready_usd_h * kind.start_s / hour, 0.0)
        create_usd = np.where(ends > 2 * kind.create_s, kind.loading_usd_h * kind.create_s / hour, 0.0)
        started, made = program.new(start_usd, kind.available), program.new(create_usd, kind.available)
        program.rows(np.zeros(bins), (1.0, ready, now), (-1.0, there, now))
        change = ((1.0, ready, later), (-1.0, ready, before), (-1.0, started, later), (-1.0, made, later))
        program.rows(np.zeros(bins - 1), *change)
        program.rows(np.zeros(bins - 1), (1.0, there, later), (-1.0, there, before), (-1.0, made, later))
        able.append((-bin_s * kind.perf, ready, now))
    program.rows(np.zeros(1), (1.0, done, now[:1]), *((f, v, now[:1]) for f, v, _ in able))
    program.rows(np.zeros(bins - 1), (1.0, done, later), (-1.0, done, before), *((f, v, later) for f, v, _ in able))
    return program.solve()


def _done(begin: Floats, cost: Floats, speed: float, at: Floats) -> Floats:
    """Work done at each time if every request begins at `begin` and runs at `speed`."""
    return speed * (_since(begin, at) - _since(begin + cost / speed, at))


def _since(begin: Floats, at: Floats) -> Floats:
    """The sum over all `begin` of the time since."""
    begin = np.sort(begin)
    n = np.searchsorted(begin, at)
    passed: Floats = n * at - np.concatenate(([0.0], np.cumsum(begin)))[n]
    return passed


class _Program:
    """A linear program that is put together by blocks: each variable stands for one number per bin."""

    def __init__(self, bins: int) -> None:
        self._bins = bins
        self._usd: list[Floats] = []
        self._most: list[Floats] = []
        self._whole: list[bool] = []
        self._limits: list[Floats] = []
        self._entries: list[tuple[float, NDArray[np.intp], NDArray[np.intp]]] = []
        self._height = 0

    def new(self, usd: float | Floats, most: float | Floats, whole: bool = False) -> int:
        self._usd.append(np.broadcast_to(np.asarray(usd, dtype=np.float64), self._bins))
        self._most.append(np.broadcast_to(np.asarray(most, dtype=np.float64), self._bins))
        self._whole.append(whole)
        return (len(self._usd) - 1) * self._bins

    def rows(self, limit: Floats, *terms: tuple[float, int, NDArray[np.intp]]) -> None:
        for factor, variable, which in terms:
            self._entries.append((factor, self._height + np.arange(len(which)), variable + which))
        self._height += len(limit)
        self._limits.append(limit)

    def solve(self) -> float:
        from scipy.optimize import Bounds, LinearConstraint, linprog, milp  # takes a second
        from scipy.sparse import coo_array

        usd, most = np.concatenate(self._usd), np.concatenate(self._most)
        factors = np.concatenate([np.full(len(rows), factor) for factor, rows, _ in self._entries])
        places = tuple(np.concatenate([entry[i] for entry in self._entries]) for i in (1, 2))
        matrix = coo_array((factors, places), shape=(self._height, len(usd))).tocsr()
        limits = np.concatenate(self._limits)
        if any(self._whole):
            found = milp(
                usd,
                integrality=np.repeat(self._whole, self._bins).astype(int),
                bounds=Bounds(0.0, most),
                constraints=LinearConstraint(matrix, ub=limits),
            )
        else:
            bounds = np.column_stack((np.zeros(len(most)), most))
            found = linprog(usd, A_ub=matrix, b_ub=limits, bounds=bounds, method="highs-ds")
        if not found.success:
            raise ArithmeticError(f"the bound was not found: {found.message}")
        return float(found.fun)


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """What it costs never to let anybody wait but for a cold start."""

    theta_s: float
    """Gaps shorter than this are lived through."""
    usd: float
    """Of the GPU alone."""
    starts: int


def keep_alive(arrivals: Iterable[Arrival], kind: Kind, span_s: float, thetas_s: Sequence[float]) -> list[KeepAlive]:
    """The exact cost of whole workers, where each request begins at once and each idle gap is kept or not.

    Source: the k-th worker is needed while more than (k - 1) x slots requests are in service. Those needs are
    intervals; between two of one worker it is either kept, which costs the gap, or started again, which costs a start.
    With all of the future known a gap is worth keeping if it is shorter than a start; other `thetas_s` show what fewer
    starts cost.
    """
    came = np.array([(t, cost) for t, cost in arrivals if 0 <= t < span_s]).reshape(-1, 2)
    begin = came[:, 0]
    end = np.minimum(begin + came[:, 1] / kind.speed, span_s)
    times = np.concatenate((begin, end))
    steps = np.concatenate((np.ones(len(begin)), -np.ones(len(end))))
    order = np.lexsort((steps, times))  # who leaves makes room for who comes at the same moment
    times, open_now = times[order], np.cumsum(steps[order])
    needed = -(-open_now // kind.slots)
    busy_s, gaps, first = 0.0, [np.empty(0)], 0
    for k in range(1, int(needed.max(initial=0)) + 1):
        change = np.diff(np.concatenate(([False], needed >= k)).astype(int))
        ups, downs = times[change > 0], times[change < 0]
        busy_s += float(downs.sum() - ups.sum())
        gaps.append(ups[1:] - downs[:-1])
        first += 1
    idle = np.concatenate(gaps)
    rows = []
    for theta_s in thetas_s:
        kept = idle[idle < theta_s]
        starts = first + len(idle) - len(kept)
        paid_s = busy_s + float(kept.sum()) + (starts - first) * kind.start_s  # the first ones are there, as above
        rows.append(KeepAlive(theta_s, paid_s * kind.ready_usd_h / SECONDS_PER_HOUR, starts))
    return rows


def whole_workers_usd(scenario: Scenario) -> float:
    """The least of `keep_alive` for the first type of worker: nobody waits, and workers are whole."""
    arrivals = [(t - scenario.warm_s, cost) for t, cost in scenario.traffic.arrivals(scenario.seed)]
    kind = Kind.of(scenario.workers[0])
    return keep_alive(arrivals, kind, scenario.traffic.span_s - scenario.warm_s, [kind.start_s])[0].usd
