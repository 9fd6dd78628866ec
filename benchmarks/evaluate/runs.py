"""Runs cells under policies in several processes, and keeps every result, so that an evaluation goes on where it was.

A result is kept under what it follows from: the scenario with its traffic, the policy, and the version of the code
that matters to it. What a rival does depends on its own source and on how the world behaves; of the latter a short run
tells, so that a change of the shipped policy leaves the rivals' results valid.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.evaluate import bounds
from benchmarks.evaluate.foresight import Foresight
from benchmarks.evaluate.markets import ONE_KIND
from benchmarks.evaluate.scenarios import GOAL_S, GOALS_S, PERF, STOPPED_USD_H, Cell, Grid
from posthouse.domain.decision import Decision, Memory, Snapshot
from posthouse.domain.offer import SECONDS_PER_HOUR
from posthouse.errors import PosthouseError
from posthouse.fleet.controller import Policy
from posthouse.sim import policies
from posthouse.sim.record import Sample, share_over
from posthouse.sim.run import run
from posthouse.sim.scenario import Scenario, Spread, load

SOURCE = Path(policies.__file__).parents[1]
OURS = "posthouse"
AUTO = "auto"
SEES = "+foresight"
"""A variant of ours with this at its end is fed the true future."""
BOUND = "bound"
MISSED = 0.01
"""Share of the work that the bounds may leave out."""
HOPELESS_S, HOPELESS_CREATIONS, HOPELESS = 600.0, 4.0, 9000
"""A run in which more requests wait than come in this time, and for so many creations, is not gone on with: its queue
only grows, and a world takes the longer the more are asking. Nor is one in which more wait than the last number."""
PROBED = ("knative", "vast")
"""Rivals whose short run tells how the world behaves."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    cell: Cell
    policy: str
    """As rows name it: a rival with its knobs, a variant of ours, or the bounds."""
    scenario: Scenario
    key: str


def ours() -> list[str]:
    """The variants of our own policy."""
    return [OURS, AUTO, OURS + SEES, AUTO + SEES]


def rivals() -> list[str]:
    """Every rival with its defaults."""
    return [name for name in policies.POLICIES if name != OURS]


def sweeps() -> list[str]:
    """Every point of every rival's sweep."""
    return [point for name in rivals() for point in policies.sweep(name) if point != name]


def settings() -> list[str]:
    """Parameters that a user of ours may choose, as rows name them: `auto(target_queue_time=3)`.

    A value with an x is in multiples of the mean load: who knows what his rival's fleet does may say it here, too.
    """
    found = [f"{OURS}(target_util={share})" for share in ("0.5", "0.6", "0.7", "0.8", "1")]
    found += [f"{AUTO}(target_queue_time={wait_s})" for wait_s in ("1", "3", "5")]
    found += [f"{AUTO}(target_queue_time={a},max_queue_time={b})" for a, b in (("30", "60"), ("120", "300"))]
    found += [f"{AUTO}(max_workers={most}x,max_queue_time=60)" for most in ("1", "1.6")]
    return found + [f"{AUTO}(min_load={least}x)" for least in ("1.5", "2.5", "4", "6.7")]


def is_ours(policy: str) -> bool:
    return variant(policy) in (OURS, AUTO)


def variant(policy: str) -> str:
    """The variant of ours, without its parameters; of others anything else."""
    return policy.partition("(")[0].removesuffix(SEES)


def _parameters(policy: str, cell: Cell) -> dict[str, float | str]:
    """The parameters of an endpoint under a variant of ours, besides those of the grid."""
    found: dict[str, float | str] = {"slo_mode": "auto"} if variant(policy) == AUTO else {}
    for part in policy.partition("(")[2].removesuffix(")").split(",") if "(" in policy else ():
        name, _, value = part.partition("=")
        if value.endswith("x"):
            times = float(value[:-1]) * cell.size
            found[name] = times * PERF if name == "min_load" else math.ceil(times)
        else:
            found[name] = float(value)
    return found


def prepared(grid: Grid, cell: Cell, policy: str) -> Task:
    """The run of a policy in a cell."""
    given = grid.scenario(cell)
    if is_ours(policy):
        name = OURS
        given = msgspec.structs.replace(given, scaling=given.scaling | _parameters(policy, cell))
    else:
        name = policy if policy != BOUND else OURS
    given = msgspec.structs.replace(given, policy=name)
    path = Path(given.traffic.trace)
    bare = msgspec.structs.replace(given, traffic=msgspec.structs.replace(given.traffic, trace=""))
    said = (msgspec.json.encode(bare).decode(), _contents(path, path.stat().st_mtime_ns), policy, _version(policy))
    return Task(cell, policy, given, _digest(*said))


@cache
def _contents(path: Path, changed_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]


@cache
def _version(policy: str) -> str:
    """What the results of a policy follow from, besides the scenario."""
    if policy == BOUND:
        return _sources(Path(__file__).parent / "bounds.py")
    own = Path(__file__).with_name("foresight.py") if policy.endswith(SEES) else SOURCE / "sim" / "rivals"
    if is_ours(policy):
        return _sources(SOURCE / "policy", SOURCE / "fleet", SOURCE / "domain", own) + _world()
    return _sources(own) + _world()


@cache
def _world() -> str:
    """How the world behaves: everything that happens in a short run with faults, a wave and a lull."""
    lines: list[str] = []
    for policy in PROBED:
        tree = {
            "traffic": {"shape": "on-off", "load": 320.0, "period_s": 900.0, "cost_spread": 0.8, "span_s": 1500.0},
            "workers": {"perf": 80.0, "slots": 8, "refused": 0.1, "crashes_h": 2.0, "create_s": 40.0, "load_s": 20.0},
            "scaling": {"min_load": 0.0},
            "policy": policy,
        }
        result = run(load(None, tree), log=lines.append)
        lines.append(json.dumps(result.summary.json()))
    return _digest(*lines)


def _sources(*paths: Path) -> str:
    files = [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    return _digest(*(file.read_text(encoding="utf-8") for file in files))


class ResultCache:
    """Results in a file, one JSON object a line; what a broken-off run left unfinished is ignored."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, Row] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                self._rows[row["key"]] = row

    def find(self, key: str) -> Row | None:
        return self._rows.get(key)

    def add(self, row: Row) -> None:
        self._rows[row["key"]] = row
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def results(
    grid: Grid, wanted: Sequence[tuple[Cell, str]], found_before: ResultCache, jobs: int, progress: "Progress"
) -> list[Row]:
    """A row for each wanted run: cached ones are taken, the others are made, `jobs` at a time; with 0, left out."""
    # The bounds know one kind of machine alone.
    wanted = [(cell, policy) for cell, policy in wanted if policy != BOUND or cell.market == ONE_KIND]
    tasks = [prepared(grid, cell, policy) for cell, policy in wanted]
    missing = [task for task in tasks if found_before.find(task.key) is None]
    progress.begin(sum(map(_effort, missing)), len(tasks) - len(missing))
    for row in _done(missing, jobs) if jobs else ():
        found_before.add(row)
        progress.done(_effort_of(row), row)
    found = [found_before.find(task.key) for task in tasks]
    return [row for row in found if row is not None]


class Progress:
    """Who wants to know how far the runs are."""

    def begin(self, effort: float, kept: int) -> None:
        """`effort`: of what is still to be run, in the unit of `done`."""

    def done(self, effort: float, row: Row) -> None:
        """One more run has ended."""


def _effort(task: Task) -> float:
    return 0.2 if task.policy == BOUND else _cell_effort(task.cell.size, task.cell.span_s + task.cell.warm_s)


def _effort_of(row: Row) -> float:
    return 0.2 if row["policy"] == BOUND else _cell_effort(row["size"], row["whole_s"])


def _cell_effort(size: float, whole_s: float) -> float:
    """About how many seconds a run takes."""
    return whole_s / SECONDS_PER_HOUR * (0.7 + 0.6 * size)


def _done(tasks: Sequence[Task], jobs: int) -> Iterator[Row]:
    if jobs == 1:
        yield from map(row_of, tasks)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_yield_to_others) as pool:
        waiting = {pool.submit(row_of, task) for task in tasks}
        try:
            for future in as_completed(waiting):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _yield_to_others() -> None:
    os.nice(5)


def row_of(task: Task) -> Row:
    """What one run comes to."""
    cell, given = task.cell, task.scenario
    row: Row = {"key": task.key, "cell": cell.name, "scenario": cell.scenario_name, "policy": task.policy}
    row |= {"size": cell.size, "span_s": cell.span_s, "whole_s": cell.span_s + cell.warm_s}
    if task.policy == BOUND:
        least = {f"wait_{wait_s:g}_usd": round(bounds.clairvoyant(given, wait_s, MISSED), 6) for wait_s in (0, 10, 30)}
        no_wait_usd = bounds.clairvoyant(given, 0.0)
        return row | least | {"no_wait_usd": no_wait_usd, "whole_usd": round(bounds.whole_workers_usd(given), 6)}
    watch: list[_Watched] = []

    def around(policy: Policy) -> Policy:
        if task.policy.endswith(SEES):
            policy = _seeing(policy, given)
        watch.append(_Watched(policy, HOPELESS_S * cell.rps, HOPELESS_CREATIONS * cell.create_s))
        return watch[0]

    began_s = time.process_time()
    try:
        result = run(given, around=around)
    except _Hopeless as error:
        return row | {"gave_up": str(error), "cpu_s": round(time.process_time() - began_s, 2)}
    except PosthouseError as error:
        return row | {"broken": str(error)}
    summary, record = result.summary, result.record
    left = summary.unserved_work * record.offered - record.unserved_work
    over = {f"over_{goal_s:g}": round(share_over(record, goal_s, max(0.0, left)), 6) for goal_s in GOALS_S}
    assert summary.goal_s == GOAL_S
    hours = summary.span_s / SECONDS_PER_HOUR
    return row | {
        "usd": summary.usd,
        "ready_h": summary.ready_h,
        "loading_h": summary.loading_h,
        "stopped_h": summary.stopped_h,
        "stopped_usd": round(summary.stopped_h * STOPPED_USD_H, 6),
        "rents": summary.rents,
        "starts": summary.starts,
        "stops": summary.stops,
        "requests": summary.requests,
        "unserved": summary.unserved,
        "wait_p50_s": summary.wait_s.p50,
        "wait_p95_s": summary.wait_s.p95,
        "wait_p99_s": summary.wait_s.p99,
        "wait_max_s": summary.wait_s.most,
        **over,
        "busy": summary.busy,
        "turns_h": round(_turns(record.samples, given.warm_s) / hours, 2),
        "tick_us": round(watch[0].mean_us, 1),
        "cpu_s": round(time.process_time() - began_s, 2),
    }


def _seeing(policy: Policy, given: Scenario) -> Policy:
    start_s = given.workers[0].start_s
    horizon_s = start_s.median if isinstance(start_s, Spread) else start_s
    return Foresight(policy, given.traffic.arrivals(given.seed), horizon_s)


class _Hopeless(PosthouseError):
    """More requests wait than will ever be served in time."""


class _Watched:
    """A policy, with the processor time that its decisions take.

    Raises: _Hopeless when more than `most` wait for `longest_s`, or more than `HOPELESS` at any time.
    """

    def __init__(self, policy: Policy, most: float, longest_s: float) -> None:
        self._policy, self._most, self._longest_s = policy, most, longest_s
        self._few_at = -math.inf
        self._ticks, self._spent_ns = 0, 0

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        many = s.demand.waiting_count
        if many <= self._most or self._few_at < 0:
            self._few_at = s.now
        if many > HOPELESS or s.now - self._few_at > self._longest_s:
            raise _Hopeless(f"{many} requests wait")
        began_ns = time.thread_time_ns()
        decision = self._policy(s, memory)
        self._spent_ns += time.thread_time_ns() - began_ns
        self._ticks += 1
        return decision

    @property
    def mean_us(self) -> float:
        return self._spent_ns / 1000 / max(1, self._ticks)


def _turns(samples: Sequence[Sample], warm_s: float) -> int:
    """How often the number of workers that are ready or coming changed its direction."""
    numbers = [sample.hot + sample.coming for sample in samples if sample.t >= warm_s]
    ways = [b > a for a, b in pairwise(numbers) if a != b]
    return sum(a != b for a, b in pairwise(ways))
