"""Measures forecasts of load: `python -m benchmarks.forecast --traces PATH ...`, two minutes of one core.

The shipped forecast, simple experts, and mixes that weight them online, on the traffic of the evaluation at 3 and 12
busy workers, every 10 s; no fleet is simulated. Compared is the pinball loss of the mean load of the minute that begins
a horizon from now, to that of the shipped forecast. A quantile of 0.8, where too little costs four times what too much
does, asks for more than the mean; so each forecast is taken times a factor. What is won by a factor is headroom, which
`target_util` is for, and no foresight. All that is tuned is tuned on windows and seeds of their own.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.evaluate.scenarios import LONG_S, SHAPES, STARTS, Cell, Grid, traces_in
from posthouse.domain.demand import Demand
from posthouse.policy.forecast import predicted_load
from posthouse.policy.tuning import TUNING

Floats = npt.NDArray[np.float64]
BIN_S, MINUTE, FIVE, HOUR, DAY = 10, 6, 30, 360, 8640
"""Seconds of a bin; bins of the others."""
HORIZONS_S, QUANTILES, SIZES = (30, 60, 300, 600, 3600), (0.8, 0.9), (3.0, 12.0)
LATE = [horizon_s // BIN_S + MINUTE for horizon_s in HORIZONS_S]
"""Bins until it is known what came."""
EXPERTS = ("shipped", "60 s", "5 min", "an hour", "trend", "damped trend", "highest 60 s of 5 min", "a day ago")
DEVIATIONS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
DAMPED_S, MOST = 120.0, 3.0
"""In which a trend fades to 37 %; and times a day ago at most, lest an hour of silence then means no end now."""
FACTORS = np.geomspace(0.5, 4.0, 64)
RATES = tuple((eta, share) for eta in (0.003, 0.01, 0.03, 0.1, 0.3) for share in (0.0001, 0.001, 0.01))
"""Of a mix: how fast it learns, for each mean loss, and how much of the weights is dealt out again each time."""


def forecasts(x: Floats, times: npt.NDArray[np.int_]) -> Floats:
    """By horizon, time and column: `EXPERTS`, then the shipped one and so many `DEVIATIONS`. At i, x[:i] is known."""
    total = np.concatenate(([0.0], np.cumsum(x)))

    def mean(bins: int, ago: int = 0) -> Floats:
        return (total[times - ago] - total[times - ago - bins]) / bins

    def past(bins: int, ago: int = 0) -> Floats:
        return np.lib.stride_tricks.sliding_window_view(x, bins)[times - ago - bins]

    minute, five, hour = mean(MINUTE), mean(FIVE), mean(HOUR)
    variance = past(FIVE - MINUTE, MINUTE).var(axis=1) * BIN_S  # as a `Fleet` says it
    seen = zip(minute, five, mean(1), variance, strict=True)
    shipped = np.array([predicted_load(Demand(m, f, r, float(BIN_S), v), TUNING) for m, f, r, v in seen])
    age = np.arange(FIVE) - (FIVE - 1) / 2
    slope = past(FIVE) @ age / (age @ age) / BIN_S
    line = five + slope * FIVE * BIN_S / 2
    highest = np.max([mean(MINUTE, ago) for ago in range(FIVE - MINUTE + 1)], axis=0)
    higher = [shipped + k * np.sqrt(variance / (MINUTE * BIN_S)) for k in DEVIATIONS]
    found = []
    for horizon_s, late in zip(HORIZONS_S, LATE, strict=True):
        to_s = horizon_s + MINUTE * BIN_S / 2
        damped = line + slope * DAMPED_S * (1 - np.exp(-to_s / DAMPED_S))
        before = np.full_like(shipped, np.nan)
        if times[0] >= DAY + HOUR:
            before = mean(MINUTE, DAY - late) * np.clip(hour / np.maximum(mean(HOUR, DAY), 1e-9), 1 / MOST, MOST)
        columns = [shipped, minute, five, hour, line + slope * to_s, damped, highest, before, *higher]
        found.append(np.maximum(np.stack(columns, axis=1), 0.0))
    return np.stack(found)


def mixed(forecast: Floats, losses: Floats) -> Floats:
    """Of the mix, by rates, quantile, horizon and time. It knows a loss when its minute is over.

    Source: fixed share, Herbster and Warmuth 1998; the forecast is the weighted mean.
    """
    known, n = np.zeros_like(losses), losses.shape[2]
    for h, late in enumerate(LATE):
        known[:, h, late:] = losses[:, h, : max(0, n - late)]
    mean = np.cumsum(known.mean(axis=-1), axis=-1) / np.maximum(np.cumsum(known.any(axis=-1), axis=-1), 1)
    known /= np.maximum(mean, 1e-9)[..., None]
    eta, share = (np.array(column)[:, None, None, None] for column in zip(*RATES, strict=True))
    weights = np.full((len(RATES), *losses.shape[:2], losses.shape[3]), 1 / losses.shape[3])
    out = np.empty((len(RATES), *losses.shape[:3]))
    for i in range(n):
        weights *= np.exp(-eta * known[:, :, i])
        weights = (1 - share) * weights / weights.sum(axis=-1, keepdims=True) + share / weights.shape[-1]
        out[..., i] = (weights * forecast[:, :, i]).sum(axis=-1)
    return out


@dataclass(frozen=True, slots=True)
class Window:
    """Traffic with what is forecast, by horizon, time and column, and what comes. Mixes learn before it begins."""

    source: str
    forecast: Floats
    truth: Floats
    begin: int

    def losses(self, forecast: Floats) -> Floats:
        """By quantile, horizon, time and column."""
        short, q = self.truth[None, :, :, None] - forecast, np.array(QUANTILES)[:, None, None, None]
        return np.maximum(q * short, (q - 1) * short)

    def mean(self, losses: Floats) -> Floats:
        """By quantile, horizon and column; NaN for an hour ahead of what is made up or goes round."""
        n, far = losses.shape[2], losses.shape[2] * BIN_S > LONG_S / 2
        means = [losses[:, h, self.begin : n - late].mean(axis=1) for h, late in enumerate(LATE)]
        return np.stack(means if far else [*means[:-1], means[-1] * np.nan], axis=1)

    def judged(self, factors: Floats) -> dict[str, Floats]:
        """Mean losses by rates, quantile and horizon of all that compete."""
        raw, fair, k = self.forecast[None] * np.ones_like(factors), self.forecast[None] * factors, len(EXPERTS)
        single = self.mean(self.losses(np.concatenate((fair[..., :k], raw[..., :1], raw[..., :1] / 0.9), axis=3)))
        names = (*EXPERTS, "shipped, no factor", "shipped / 0.9")
        found = {name: single[None, :, :, i] for i, name in enumerate(names)}
        pools = {
            "no factors": raw[..., :k],
            "factors": fair[..., :k],
            "deviations": np.delete(raw, range(1, k), axis=3),
        }
        for name, pool in pools.items():
            there = pool[..., ~np.isnan(pool[0, 0, 0])]
            mixes = mixed(there, self.losses(there))
            found[f"mix, {name}"] = np.stack([self.mean(self.losses(mix[..., None]))[..., 0] for mix in mixes])
        return found


def windows(grid: Grid, size: float) -> Iterator[Window]:
    """Two of each source; one day, where a trace has a day before it."""
    for source in [*grid.traces, *SHAPES]:
        length_s = grid.traces[source].length_s if source in grid.traces else 0.0
        day = length_s > 5 * DAY * BIN_S
        span_h, warm_h = (24.0, 28.0) if day else (8.5 if length_s >= LONG_S else 1.5, 3.0)
        for draw in range(1 if day else 2):
            cell = Cell(source, size, *STARTS[1], draw, span_h * 3600, warm_h * 3600)
            path, n = Path(grid.scenario(cell).traffic.trace), int((warm_h + span_h) * HOUR)
            rows = np.loadtxt(path, delimiter=",", skiprows=1)
            x = np.bincount((rows[:, 0] / BIN_S).astype(int), rows[:, 1], n)[:n] / BIN_S
            times, total = np.arange(HOUR + DAY * day, n), np.concatenate(([0.0], np.cumsum(x), np.zeros(LATE[-1])))
            truth = np.stack([total[times + late] - total[times + late - MINUTE] for late in LATE]) / MINUTE
            yield Window(source, forecasts(x, times), truth, int(warm_h * HOUR) - int(times[0]))
            path.unlink()


def best_factors(tuning: list[Window]) -> Floats:
    """By quantile, horizon, any time and column; 1 for what is no expert."""
    total = np.zeros((len(FACTORS), len(QUANTILES), len(HORIZONS_S), len(EXPERTS) + len(DEVIATIONS)))
    for window in tuning:
        means = np.stack([window.mean(window.losses(window.forecast[None] * factor)) for factor in FACTORS])
        total += np.nan_to_num(means / means.min(axis=0)[..., :1])
    best: Floats = FACTORS[total.argmin(axis=0)]
    best[..., len(EXPERTS) :] = 1.0
    return best[:, :, None]


def by_source(found: list[Window], factors: Floats) -> dict[str, Floats]:
    """Logarithm of the loss of all that compete, to that of the shipped forecast; the last axis is sources."""
    judged = [window.judged(factors) for window in found]
    groups = [[i for i, w in enumerate(found) if w.source == s] for s in dict.fromkeys(w.source for w in found)]
    sums = {n: np.stack([sum(judged[i][n] for i in group) for group in groups], axis=-1) for n in judged[0]}
    return {name: np.log(losses / sums[EXPERTS[0]]) for name, losses in sums.items()}


def summary(logs: Floats, sources: list[str]) -> str:
    """Geometric mean over sources, its 95 % bootstrap interval, and the worst source."""
    there = np.flatnonzero(~np.isnan(logs))
    if not there.size:
        return ""
    drawn = logs[np.random.default_rng(0).choice(there, (4000, there.size))].mean(axis=1)
    mean, low, high, worst = np.exp([logs[there].mean(), *np.percentile(drawn, (2.5, 97.5)), logs[there].max()])
    return f"{mean:.3f} ({low:.3f} to {high:.3f}; {worst:.2f} {sources[there[logs[there].argmax()]]})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, nargs="+", default=[], metavar="PATH", help="files or folders")
    traces = traces_in(parser.parse_args().traces)
    for size in SIZES:
        with tempfile.TemporaryDirectory() as work:
            tuning, scoring = (list(windows(Grid(traces, Path(work), tune), size)) for tune in (True, False))
        factors, sources = best_factors(tuning), list(dict.fromkeys(window.source for window in scoring))
        tuned, scored = by_source(tuning, factors), by_source(scoring, factors)
        for q, quantile in enumerate(QUANTILES):
            shipped = factors[q, :, 0, 0].round(2)
            print(f"\n{size:g} busy workers, quantile {quantile}; factors of the shipped forecast {shipped}\n")
            print(f"| | {' | '.join(f'{horizon_s} s' for horizon_s in HORIZONS_S)} |")
            print(f"| --- |{' --: |' * len(HORIZONS_S)}")
            rows = {}
            for name, logs in scored.items():
                rates = [int(np.nansum(tuned[name][:, q, h], axis=-1).argmin()) for h in range(len(HORIZONS_S))]
                rows[name] = np.stack([logs[rate, q, h] for h, rate in enumerate(rates)])
            made_up = np.isin(sources, SHAPES)
            rows |= {f"{n}, recorded": np.where(made_up, np.nan, row) for n, row in rows.items() if n.startswith("mix")}
            rows["best in hindsight"] = np.fmin.reduce([rows[name] for name in EXPERTS])
            for name, row in rows.items():
                print(f"| {name} | {' | '.join(summary(logs, sources) for logs in row)} |", flush=True)


if __name__ == "__main__":
    main()
