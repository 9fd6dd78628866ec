"""Evaluates the scaling: `python -m benchmarks.evaluate [--traces PATH ...] [--quick]`.

Every policy in the same simulated worlds: ours, every rival with its defaults and at the points of its sweep, and the
bounds. Every run that has ended is kept, so an evaluation that is broken off goes on where it was.

While a controller is tuned: `--only posthouse,auto --split tune --cells '*/12/*'` runs these policies in these cells
alone, and shows them beside the rivals whose runs are kept.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from rich import progress as rich_progress
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.evaluate import report, score
from benchmarks.evaluate.runs import BOUND, Progress, ResultCache, Row, is_ours, ours, results, rivals, settings, sweeps
from benchmarks.evaluate.scenarios import Cell, Grid, traces_in
from posthouse.errors import BadRequest

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
DEMO = Path("src/posthouse/demo/azure_2023_conversation.csv")
LINE_S = 60.0
QUICK_RIVALS = ("knative", "hpa", "vast")


class Shown(Progress):
    """A bar on stderr, with the time that is left by the effort that is left; where nobody looks, a line a minute."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self.bar = rich_progress.Progress(*columns, console=console, speed_estimate_period=600, transient=True)
        self._task = self.bar.add_task("runs", total=None)
        self._began_s = self._shown_s = time.monotonic()
        self._total = self._spent = 0.0

    def begin(self, effort: float, kept: int) -> None:
        self._total = effort
        self.bar.update(self._task, total=effort, description=f"{kept} runs were kept")

    def done(self, effort: float, row: Row) -> None:
        self._spent += effort
        self.bar.update(self._task, advance=effort, description=f"{row['cell']} {row['policy']}")
        if "broken" in row or ("gave_up" in row and is_ours(row["policy"])):
            why = row.get("broken") or f"gave up: {row['gave_up']}"
            self.bar.console.print(f"{row['cell']} {row['policy']}: {why}", style="red", markup=False)
        now_s = time.monotonic()
        if not self.bar.console.is_terminal and now_s - self._shown_s >= LINE_S:
            self._shown_s = now_s
            left_s = (now_s - self._began_s) * (self._total - self._spent) / self._spent
            line = f"{100 * self._spent / self._total:.0f} %, about {left_s / 60:.0f} minutes left: {row['cell']}"
            print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    errors = Console(stderr=True)
    paths = [path for given in options.traces for path in given] or [DEMO]
    try:
        grid = Grid(traces_in(paths), options.cache, tune=options.split == "tune", quick=options.quick)
    except BadRequest as error:
        errors.print(f"error: {error}", markup=False)
        return 2
    cells = [cell for cell in grid.cells if _chosen(cell, options.cells)]
    if not cells:
        errors.print(f"error: --cells: no cell is called so; there are {', '.join(c.name for c in grid.cells)}")
        return 2
    defaults = list(QUICK_RIVALS) if options.quick else rivals()
    swept, chosen = ([], []) if options.quick or options.sweeps == "none" else (sweeps(), settings())
    mine = [policy for policy in (options.only.split(",") if options.only else ours()) if is_ours(policy)]
    cache = ResultCache(options.cache / "runs.jsonl")
    everybody = [(cell, policy) for cell in cells for policy in (BOUND, *ours(), *defaults)]
    dense = [cell for cell in cells if cell.swept or options.sweeps == "all"]
    everybody += [(cell, policy) for cell in dense for policy in (*swept, *chosen)]
    if options.only:
        runs = [(cell, policy) for cell in cells for policy in (*options.only.split(","), BOUND)]
    else:
        runs = everybody
    shown = Shown(errors)
    with shown.bar:
        rows = results(grid, runs, cache, options.jobs, shown)
        if options.only:
            rows += results(grid, [pair for pair in everybody if pair not in runs], cache, 0, Progress())
    found = score.scenarios(rows)
    print(score.columns(score.table(found, mine, defaults)), end="\n\n")
    names = {cell.name for cell in dense}
    found_there = score.scenarios(row for row in rows if row["cell"] in names)
    judged = {policy: score.summary(found, found_there, policy, defaults, swept) for policy in mine}
    print(score.columns(score.brief(judged)))
    front = score.front(found_there, defaults)
    print("", score.columns(score.at_own_waits(front)), sep="\n")
    whole = not (options.only or options.cells or options.quick) and options.split == "score"
    if options.output or options.report or whole:
        folder, beside = (options.output,) * 2 if options.output else (RESULTS, RESULTS.parent)
        info = report.EvaluationInfo(options.split, list(grid.traces), defaults, options.cells)
        report.write(folder, beside / "evaluation.md", rows, judged, front, info)
    return 1 if any("broken" in row for row in rows) else 0


def _chosen(cell: Cell, patterns: str) -> bool:
    return not patterns or any(fnmatchcase(cell.name, pattern) for pattern in patterns.split(","))


def _patterns(text: str) -> str:
    """Patterns with commas between them; `@FILE` is a file with one a line."""
    if not text.startswith("@"):
        return text
    lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
    return ",".join(line for line in map(str.strip, lines) if line and not line.startswith("#"))


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--traces", type=Path, nargs="+", action="append", default=[], metavar="PATH",
        help="files of traffic, or folders of such; default: the piece of a trace that the demo has",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="few and short cells, three rivals; a minute or two")
    parser.add_argument("--split", choices=("score", "tune"), default="score", help="which windows and seeds")
    parser.add_argument("--only", default="", metavar="POLICY,...", help="run these alone; write no report")
    parser.add_argument(
        "--cells",
        type=_patterns,
        default="",
        metavar="PATTERN,...|@FILE",
        help="of these names alone, as '*/12/30-300/*'",
    )
    parser.add_argument(
        "--sweeps", choices=("none", "some", "all"), default="some",
        help="where rivals are swept, and ours in other settings: nowhere, with one pair of start times at two sizes,"
        " or everywhere",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--cache", type=Path, default=HERE / ".cache", metavar="DIR", help="where runs are kept")
    parser.add_argument(
        "--output", type=Path, metavar="DIR",
        help="where everything goes; default: benchmarks/results and benchmarks/evaluation.md, if this is the whole",
    )  # fmt: skip
    parser.add_argument("--report", action="store_true", help="write them there though this is a part")
    return parser.parse_args(argv)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that its processes end with it
    raise SystemExit(main())
