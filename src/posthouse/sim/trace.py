"""Recorded traffic, read from CSV files (`.gz` too): one request a row, or rates a row.

Requests: columns `t_s` and either `cost`, or `in_tok` and `out_tok`. Rates: `t_s` and `rps`, each row valid until the
next; with `client`, each client has its own rates and its own burstiness: `iat_cv`, the coefficient of variation of the
times between its requests, `iat_dist` their law, G for gamma or W for Weibull, and `shape`. Units: seconds from the
start, requests per second, tokens.
"""

import csv
import gzip
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import pairwise
from pathlib import Path
from random import Random

from posthouse.errors import BadRequest
from posthouse.sim.traffic import Arrival, Costs

MAX_ROWS = 20_000_000
"""More are refused: what is held for each answer would not fit in memory."""
SHAPE_LIMITS = (0.05, 100.0)
"""Of a gamma or Weibull law; beyond them a fit to few requests says nothing."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is read."""

    in_work: float = 0.0
    """Work of one input token."""
    out_work: float = 1.0
    """Work of one output token."""
    scale: float = 1.0
    """Of rates; of requests the share that is taken."""
    start_s: float = 0.0
    """Where in the trace the world begins."""
    span_s: float = math.inf
    """How much of it is taken."""


def read(path: Path, reading: Reading, costs: Costs, seed: int) -> Iterator[Arrival]:
    """The traffic in a file. `costs`: of requests whose file does not say. Raises: BadRequest, while it is read too."""
    rows = _rows(path)
    names = next(rows)[1]
    if "t_s" not in names:
        raise BadRequest(
            f"{path}: the first line must name the columns, `t_s` among them; it is {','.join(names)!r:.100}"
        )
    if "rps" in names:
        return _from_rates(path, names, rows, reading, costs, seed)
    if "cost" in names:
        return _requests(path, names, rows, reading, ("cost",), (1.0,), seed)
    if "in_tok" in names and "out_tok" in names:
        return _requests(path, names, rows, reading, ("in_tok", "out_tok"), (reading.in_work, reading.out_work), seed)
    raise BadRequest(f"{path}: needs a column `rps`, or `cost`, or `in_tok` and `out_tok`; it has {', '.join(names)}")


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each row, the header first."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, None)
            if not header:
                raise BadRequest(f"{path}: is empty")
            yield 1, [name.strip() for name in header]
            for row in reader:
                if row:
                    yield reader.line_num, row
                if reader.line_num > MAX_ROWS:
                    raise BadRequest(f"{path}: has more than {MAX_ROWS:,} rows")
    except FileNotFoundError:
        raise BadRequest(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise BadRequest(f"{path}: is a directory; a CSV file is needed") from None
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, csv.Error) as error:
        raise BadRequest(f"{path}: is not a CSV file in UTF-8, plain or .gz: {error}") from None


def _number(path: Path, line: int, row: list[str], column: int, name: str) -> float:
    try:
        value = float(row[column])
    except IndexError:
        raise BadRequest(f"{path}, line {line}: `{name}` is missing") from None
    except ValueError:
        raise BadRequest(f"{path}, line {line}: `{name}` is {row[column]!r:.50}; it must be a number") from None
    if not 0 <= value < math.inf:
        raise BadRequest(f"{path}, line {line}: `{name}` is {value}; it must be 0 or more, and finite")
    return value


def _requests(
    path: Path,
    names: list[str],
    rows: Iterable[tuple[int, list[str]]],
    reading: Reading,
    parts: tuple[str, ...],
    weights: tuple[float, ...],
    seed: int,
) -> Iterator[Arrival]:
    if reading.scale > 1:
        raise BadRequest(
            f"scale is {reading.scale:g}; requests can only be thinned out: 0 to 1, or give workers less perf"
        )
    random = Random(f"{seed}/thinning")
    at, columns = names.index("t_s"), [names.index(name) for name in parts]
    before_s = 0.0
    for line, row in rows:
        t = _number(path, line, row, at, "t_s")
        if t < before_s:
            raise BadRequest(
                f"{path}, line {line}: `t_s` is {t:g}, less than {before_s:g} before it; rows must be in order"
            )
        before_s = t
        if t - reading.start_s >= reading.span_s:
            return
        if t < reading.start_s or (reading.scale < 1 and random.random() >= reading.scale):
            continue
        values = [_number(path, line, row, c, name) for c, name in zip(columns, parts, strict=True)]
        yield t - reading.start_s, sum(v * w for v, w in zip(values, weights, strict=True))


@dataclass(frozen=True, slots=True)
class _Rate:
    t_s: float
    rps: float
    law: str
    shape: float
    cost: float
    """Mean work of a request; 0: not said."""


def _from_rates(
    path: Path, names: list[str], rows: Iterable[tuple[int, list[str]]], reading: Reading, costs: Costs, seed: int
) -> Iterator[Arrival]:
    where = {name: column for column, name in enumerate(names)}
    clients: dict[str, list[_Rate]] = {}
    for line, row in rows:
        number: dict[str, float] = {
            name: _number(path, line, row, where[name], name)
            for name in ("t_s", "rps", "iat_cv", "shape", "in_tok_s", "out_tok_s")
            if name in where and (len(row) <= where[name] or row[where[name]] != "" or name in ("t_s", "rps"))
        }
        law, shape = _law(row[where["iat_dist"]] if "iat_dist" in where else "", number)
        work = reading.in_work * number.get("in_tok_s", 0.0) + reading.out_work * number.get("out_tok_s", 0.0)
        cost = work / number["rps"] if number["rps"] > 0 else 0.0
        rate = _Rate(number["t_s"], number["rps"] * reading.scale, law, shape, cost)
        rates = clients.setdefault(row[where["client"]] if "client" in where else "", [])
        if rates and rates[-1].t_s >= rate.t_s:
            raise BadRequest(f"{path}, line {line}: `t_s` must grow from row to row of a client")
        rates.append(rate)
    if not clients:
        raise BadRequest(f"{path}: has no rows")
    steps = [b.t_s - a.t_s for rates in clients.values() for a, b in pairwise(rates)]
    bin_s = min(steps, default=600.0)
    streams = [
        _renewals(rates, bin_s, reading, costs, Random(f"{seed}/client/{client}")) for client, rates in clients.items()
    ]
    return merge(*streams)


def _law(name: str, number: dict[str, float]) -> tuple[str, float]:
    low, high = SHAPE_LIMITS
    if name == "W" and number.get("shape", 0.0) > 0:
        return "W", min(max(number["shape"], low), high)
    cv = number.get("iat_cv", 1.0)
    return "G", min(max(1 / cv**2 if cv > 0 else high, low), high)


def _renewals(rates: list[_Rate], bin_s: float, reading: Reading, costs: Costs, random: Random) -> Iterator[Arrival]:
    """Requests of one client: a renewal process of mean 1, run at the client's rate of the moment."""
    left = random.random()  # it does not begin with a request
    for rate, end_s in zip(rates, [r.t_s for r in rates[1:]] + [math.inf], strict=True):
        t, until_s = rate.t_s, min(end_s, rate.t_s + bin_s)
        draw = _gaps(rate, random)
        while rate.rps > 0:
            need_s = left / rate.rps
            if t + need_s >= until_s:
                left -= (until_s - t) * rate.rps
                break
            t += need_s
            left = draw()
            if t - reading.start_s >= reading.span_s:
                return
            if t >= reading.start_s:
                mean = Costs(rate.cost, costs.spread) if rate.cost > 0 else costs
                yield t - reading.start_s, mean.draw(random)


def _gaps(rate: _Rate, random: Random) -> Callable[[], float]:
    """Draws times between requests with mean 1."""
    if rate.law == "W":
        scale = 1 / math.gamma(1 + 1 / rate.shape)
        return lambda: random.weibullvariate(scale, rate.shape)
    return lambda: random.gammavariate(rate.shape, 1 / rate.shape)
