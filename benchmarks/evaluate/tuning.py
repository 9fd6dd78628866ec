"""What a number of the policy does, doubled or halved: `python -m benchmarks.evaluate.tuning --traces FOLDER`.

Each number of `Tuning` alone, in a few small cells of the evaluation; writes benchmarks/results/tuning.json, which
docs/reference/tuning.md shows. The numbers of `auto` are varied in `auto`, all others in `fixed`.
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from benchmarks.evaluate.runs import AUTO, OURS, prepared, row_of
from benchmarks.evaluate.scenarios import Cell, Grid, traces_in
from posthouse.policy.tuning import TUNING, Tuning

CELLS = ("servegen_m-small_synth_0.25rps/0.5/30-300/0", "steps/3/30-300/0", "steps@mixed/3/30-300/0")
ONLY_AUTO = ("waiting_share", "max_burstiness")
FACTORS = (0.5, 2.0)
HERE = Path(__file__).parent

Outcome = tuple[float, float]
"""Dollars, geometric mean; share of the work that waited over 10 s, mean."""


@contextmanager
def varied(name: str, factor: float) -> Iterator[float]:
    """The shipped numbers with one of them changed, for fleet and policy alike."""
    before = getattr(TUNING, name)
    value = max(1, round(before * factor)) if isinstance(before, int) else before * factor
    object.__setattr__(TUNING, name, value)
    try:
        yield value
    finally:
        object.__setattr__(TUNING, name, before)


def outcome(grid: Grid, cells: Sequence[Cell], policy: str) -> Outcome:
    """What the policy comes to in the cells."""
    rows = [row_of(prepared(grid, cell, policy)) for cell in cells]
    usd = math.exp(sum(math.log(row["usd"]) for row in rows) / len(rows))
    return usd, sum(row["over_10"] for row in rows) / len(rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate.tuning", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--traces", type=Path, nargs="+", required=True, metavar="PATH")
    parser.add_argument("--cells", default=",".join(CELLS), metavar="NAME,...")
    parser.add_argument("--cache", type=Path, default=HERE / ".cache", metavar="DIR", help="where traffic is kept")
    options = parser.parse_args(argv)
    grid = Grid(traces_in(options.traces), options.cache)
    cells = [cell for cell in grid.cells if cell.name in options.cells.split(",")]
    path = HERE.parent / "results" / "tuning.json"
    base = {policy: outcome(grid, cells, policy) for policy in (OURS, AUTO)}
    found: dict[str, dict[str, list[float]]] = {}
    for number in fields(Tuning):
        policy = AUTO if number.name in ONLY_AUTO else OURS
        for factor in FACTORS:
            with varied(number.name, factor):
                usd, over = outcome(grid, cells, policy)
            change = [round(usd / base[policy][0] - 1, 4), round(over - base[policy][1], 4)]
            found.setdefault(number.name, {})[f"{factor:g}"] = change
            tree = {"cells": [cell.name for cell in cells], "changes": found}
            path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
            print(number.name, factor, change, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
