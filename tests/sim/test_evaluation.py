"""The evaluation: its bounds against brute force, its worlds, and what it keeps."""

import csv
import json
from itertools import pairwise, product
from pathlib import Path
from random import Random

import numpy as np
import pytest
from benchmarks.evaluate import bounds, runs, score
from benchmarks.evaluate.__main__ import main
from benchmarks.evaluate.runs import BOUND, Progress, ResultCache, Row, prepared, results, settings
from benchmarks.evaluate.scenarios import PERF, READY_USD_H, STARTS, Cell, Grid, Trace, traces_in

from posthouse.domain.decision import Memory, Snapshot
from posthouse.domain.demand import Demand
from posthouse.domain.endpoint import Endpoint, EndpointId
from posthouse.domain.estimates import Estimates
from posthouse.errors import BadRequest
from posthouse.policy.decide import decide
from posthouse.sim.run import run
from posthouse.sim.scenario import load
from posthouse.sim.traffic import Arrival
from tests.kit.marks import long

HOUR = 3600.0
BIN_S = 10.0


def kind(perf: float = 10.0, slots: int = 2, usd_h: float = 1.0, start_s: float = 4.0, most: int = 3) -> bounds.Kind:
    """A type whose stopped workers cost nothing; to make a new one takes as long as to start it."""
    return bounds.Kind(perf, slots, usd_h, usd_h, 0.0, start_s, start_s, most)


def some_arrivals(seed: int, span_s: float, number: int, most_cost: float = 60.0) -> list[Arrival]:
    random = Random(seed)
    return sorted((random.uniform(0, span_s), random.uniform(1, most_cost)) for _ in range(number))


def fastest(arrivals: list[Arrival], speed: float, at: float, late_s: float = 0.0) -> float:
    """Work done by `at` if each request begins `late_s` after it came."""
    return sum(min(cost, max(0.0, at - t - late_s) * speed) for t, cost in arrivals)


def brute_force_usd(arrivals: list[Arrival], of: bounds.Kind, bins: int, wait_s: float) -> float:
    """The least cost over every number of whole workers in every bin, by trying all."""
    best = np.inf
    for numbers in product(range(of.available + 1), repeat=bins):
        done = 0.0
        for k, number in enumerate(numbers):
            at = (k + 1) * BIN_S
            done = min(fastest(arrivals, of.speed, at), done + number * of.perf * BIN_S)
            if done < fastest(arrivals, of.speed, at, wait_s) - 1e-9:
                break
        else:
            free = [(k + 1) * BIN_S <= 2 * of.start_s for k in range(bins)]
            starts = sum(max(0, b - a) for k, (a, b) in enumerate(pairwise(numbers), 1) if not free[k])
            best = min(best, (sum(numbers) * BIN_S + starts * of.start_s) * of.ready_usd_h / HOUR)
    return best


@pytest.mark.parametrize("seed", range(6))
def test_the_program_with_whole_workers_finds_what_trying_everything_finds(seed: int) -> None:
    bins, of = 5, kind()
    arrivals = some_arrivals(seed, bins * BIN_S, 6)
    wait_s = (0.0, 5.0, 20.0)[seed % 3]
    found = bounds.least_usd(arrivals, [of], bins * BIN_S, BIN_S, wait_s, whole=True)
    assert found == pytest.approx(brute_force_usd(arrivals, of, bins, wait_s))
    assert bounds.least_usd(arrivals, [of], bins * BIN_S, BIN_S, wait_s) <= found + 1e-9


def test_more_patience_more_left_out_and_more_types_never_cost_more() -> None:
    arrivals = some_arrivals(1, 600.0, 80)
    small, large = kind(most=20), kind(perf=50.0, slots=10, usd_h=3.0, most=20)

    def usd(*kinds: bounds.Kind, wait_s: float = 0.0, missed: float = 0.0) -> float:
        return bounds.least_usd(arrivals, kinds, 600.0, BIN_S, wait_s, missed)

    by_patience = [usd(small, wait_s=wait_s) for wait_s in (0.0, 10.0, 30.0, 120.0)]
    assert by_patience == sorted(by_patience, reverse=True)
    assert by_patience[0] > by_patience[-1]
    assert usd(small, missed=0.1) < usd(small)
    assert usd(small, large) < min(usd(small), usd(large)) + 1e-9
    work = sum(cost for _, cost in arrivals if cost)
    assert usd(small) > 0.9 * fastest(arrivals, small.speed, 600.0) / small.perf / HOUR
    assert usd(small) < 3 * work / small.perf / HOUR


@pytest.mark.parametrize("seed", range(5))
def test_a_gap_is_kept_where_that_is_cheaper_than_a_start(seed: int) -> None:
    of, span_s = kind(slots=1, start_s=30.0), 600.0
    arrivals = some_arrivals(seed, span_s, 8)
    speed = of.speed
    times = sorted({t for t, _ in arrivals} | {min(span_s, t + cost / speed) for t, cost in arrivals})
    open_at = [sum(t <= at < t + cost / speed for t, cost in arrivals) for at in times]
    best = np.inf
    # Each way to keep more than is needed, by level: between two needs of a level it is kept or not.
    paid_s = 0.0
    for level in range(1, max(open_at) + 1):
        spans = [(a, b, n >= level) for a, b, n in zip(times, times[1:], open_at, strict=False)]
        first = next(i for i, (_, _, need) in enumerate(spans) if need)
        last = max(i for i, (_, _, need) in enumerate(spans) if need)
        inside = spans[first : last + 1]
        free = [i for i, (_, _, need) in enumerate(inside) if not need]
        least_s = np.inf
        for kept in product((False, True), repeat=len(free)):
            on = [need or (i in free and kept[free.index(i)]) for i, (_, _, need) in enumerate(inside)]
            starts = sum(b and not a for a, b in pairwise(on))
            least_s = min(
                least_s, sum(b - a for (a, b, _), there in zip(inside, on, strict=True) if there) + starts * 30.0
            )
        paid_s += least_s
    best = paid_s * of.ready_usd_h / HOUR
    rows = bounds.keep_alive(arrivals, of, span_s, [0.0, 10.0, 30.0, 100.0, 1e9])
    assert rows[2].usd == pytest.approx(best)
    assert min(row.usd for row in rows) == rows[2].usd
    assert [row.starts for row in rows] == sorted((row.starts for row in rows), reverse=True)
    assert bounds.least_usd(arrivals, [kind(slots=1, start_s=30.0, most=20)], span_s, BIN_S, 0.0) <= best + 1e-9


@pytest.mark.parametrize("policy", ["posthouse", long("knative"), long("static")])
@pytest.mark.parametrize("shape", [long("step"), "on-off", long("burst")])
def test_no_policy_is_cheaper_than_the_bound_for_what_it_left_out(policy: str, shape: str) -> None:
    seed = len(policy) + len(shape)
    tree = {
        "traffic": {"shape": shape, "load": 240.0, "low": 80.0, "period_s": 900.0, "length_s": 200.0, "span_s": 2400.0},
        "workers": {"perf": PERF, "create_s": 40.0, "load_s": 40.0, "start_s": 20.0, "crashes_h": 0.5},
        "scaling": {"min_load": 0.0, "cold_workers": 2},
        "policy": policy,
        "seed": seed,
        "warm_s": 600.0,
    }
    given = load(None, tree)
    summary = run(given).summary
    for wait_s, missed in ((given.goal_s, summary.over_goal), (summary.wait_s.most, 0.0)):
        assert bounds.clairvoyant(given, wait_s, missed) <= summary.usd


def test_a_beginning_that_is_not_counted_changes_nothing_of_the_rest() -> None:
    tree = {"traffic": {"load": 100.0, "span_s": 600.0}, "scaling": {"min_load": 0.0}}
    whole, late = (run(load(None, tree | {"warm_s": warm_s})).summary for warm_s in (0.0, 300.0))
    first = run(load(None, tree | {"traffic": {"load": 100.0, "span_s": 300.0}})).summary
    assert late.span_s == 300.0
    assert late.requests < whole.requests
    assert whole.usd == pytest.approx(first.usd + late.usd, rel=1e-4)


def test_a_world_may_begin_with_workers() -> None:
    tree = {"workers": {"ready": 3, "stopped": 2, "available": 4}, "traffic": {"span_s": 60.0, "load": 600.0}}
    lines: list[str] = []
    summary = run(load(None, tree | {"scaling": {"max_workers": 4, "min_load": 1000.0}}), log=lines.append).summary
    assert summary.ready_h == pytest.approx(3 / 60, rel=0.1)  # there is room for four: one is stopped
    assert summary.stopped_h == pytest.approx(1 / 60, rel=0.1)
    assert summary.wait_s.most < 5.0
    assert not any(" rent worker" in line for line in lines)


def rows_of(path: Path) -> list[tuple[float, float]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(float(row["t_s"]), float(row["cost"])) for row in csv.DictReader(file)]


@pytest.fixture
def traces(tmp_path: Path) -> list[Trace]:
    random = Random(4)
    requests, rates = tmp_path / "requests.csv", tmp_path / "rates.csv"
    times = sorted(random.uniform(0, 1000) for _ in range(300))
    requests.write_text("t_s,in_tok,out_tok\n" + "".join(f"{t:.2f},{100},{random.randrange(1, 400)}\n" for t in times))
    rates.write_text(
        "client,t_s,rps,iat_cv\n" + "".join(f"{c},{t},{c + 1},2\n" for c in (0, 1) for t in range(0, 7200, 600))
    )
    (tmp_path / "else.csv").write_text("gpu,usd\nA,1\n")
    return traces_in([tmp_path])


@pytest.mark.parametrize(
    "source", ["requests", "rates", "steps", "spikes", "flash-crowd", "outage", "diurnal", "on-off"]
)
def test_every_source_is_brought_to_the_size_of_its_cell(source: str, traces: list[Trace], tmp_path: Path) -> None:
    cell = Cell(source, 3.0, *STARTS[0], 0, 1800.0)
    found = rows_of(Path(Grid(traces, tmp_path).scenario(cell).traffic.trace))
    scored = [(t, cost) for t, cost in found if t >= cell.warm_s]
    assert [t for t, _ in found] == sorted(t for t, _ in found)
    assert sum(cost for _, cost in scored) / cell.span_s / PERF == pytest.approx(3.0, rel=0.02)
    assert len(scored) == pytest.approx(cell.rps * cell.span_s, rel=0.15)
    assert found == rows_of(Path(Grid(traces, tmp_path / "again").scenario(cell).traffic.trace))
    tuned = Grid(traces, tmp_path, tune=True).scenario(cell)
    assert found != rows_of(Path(tuned.traffic.trace))
    assert tuned.seed != cell.draw


def test_what_is_no_trace_is_left_out_of_a_folder_and_refused_by_name(traces: list[Trace], tmp_path: Path) -> None:
    assert [trace.name for trace in traces] == ["rates", "requests"]
    with pytest.raises(BadRequest, match=r"else.csv: is no trace; a CSV file is needed"):
        traces_in([tmp_path / "else.csv"])


def row(policy: str, usd: float, p99_s: float, over: float, scenario: str = "a/3/5-120") -> Row:
    zeros = dict.fromkeys(score.MEASURES, 0.0)
    found = {"cell": f"{scenario}/0", "scenario": scenario, "policy": policy}
    return zeros | found | {"usd": usd, "wait_p99_s": p99_s, "over_10": over}


def test_ours_is_judged_by_who_is_cheaper_and_lets_wait_no_longer() -> None:
    rows = [
        row("posthouse", 10.0, 5.0, 0.01),
        row("slow", 9.0, 50.0, 0.2),
        row("slow and dear", 12.0, 6.0, 0.02),
        row("good and dear", 11.0, 1.0, 0.0),
        row("posthouse", 10.0, 5.0, 0.01, "b/3/5-120"),
        row("better", 9.5, 4.0, 0.01, "b/3/5-120"),
        row("point", 9.5, 4.0, 0.01),
    ]
    found = score.scenarios(rows)
    said = score.summary(found, found, "posthouse", ["slow", "slow and dear", "good and dear", "better"], ["point"])
    assert said["scenarios"] == 2
    assert said["dominated_by_a_rival_default"] == {"b/3/5-120": ["better"]}
    assert said["undominated_by_sweeps_share"]["value"] == 0.0
    assert said["saving_vs_best_rival_default_geomean"]["value"] == pytest.approx(1 - 10 / 9, abs=1e-4)
    assert said["saving_vs_best_rival_default_none"] == 1
    assert said["worst_excess_cost"] == {"scenario": "a/3/5-120", "excess": pytest.approx(0.1111)}
    both = ((10 / 11) * (10 / 9.5)) ** 0.5
    assert said["saving_vs_as_good_rival_default_geomean"]["value"] == pytest.approx(1 - both, abs=1e-4)


def test_each_rival_is_met_by_the_cheapest_setting_of_ours_that_lets_wait_no_longer() -> None:
    rows = [
        row("posthouse", 10.0, 5.0, 0.01),
        row("posthouse+foresight", 1.0, 0.0, 0.0),
        row("auto(target_queue_time=1)", 12.0, 1.0, 0.0),
        row("posthouse(target_util=1)", 6.0, 40.0, 0.1),
        row("slow", 8.0, 50.0, 0.2),
        row("good", 11.0, 1.0, 0.0),
        row("best", 40.0, 0.0, 0.0),
        row("slow", 8.0, 50.0, 0.2, "b/3/5-120"),  # no settings there
        row("posthouse", 1.0, 5.0, 0.01, "b/3/5-120"),
    ]
    met = score.front(score.scenarios(rows), ["slow", "good", "best"])
    assert list(met) == ["slow", "good", "best", score.HARDEST]
    assert met["slow"]["saving"]["value"] == pytest.approx(1 - 6 / 8)
    assert met["good"]["worst"] == {"scenario": "a/3/5-120", "excess": pytest.approx(12 / 11 - 1, abs=1e-4)}
    assert (met["best"]["saving"], met["best"]["unmet"]) == (None, ["a/3/5-120"])
    assert met[score.HARDEST]["worst"] == met["good"]["worst"]
    assert met[score.HARDEST]["unmet"] == ["a/3/5-120"]


@pytest.mark.long
def test_a_setting_of_ours_is_run_with_its_parameters(traces: list[Trace], tmp_path: Path) -> None:
    grid, cell = Grid(traces, tmp_path), Cell("steps", 3.0, *STARTS[0], 0, 600.0)
    given = grid.scenario(cell).scaling
    for policy in settings():
        own = prepared(grid, cell, policy).scenario
        assert own.policy == "posthouse"
        assert own.parameters() != grid.scenario(cell).parameters()
    auto = prepared(grid, cell, "auto(max_workers=1.3x,max_queue_time=60)").scenario.scaling
    assert auto == given | {"slo_mode": "auto", "max_workers": 4, "max_queue_time": 60.0}
    assert prepared(grid, cell, "auto(min_load=2x)").scenario.scaling["min_load"] == 2 * 3 * PERF


def test_what_the_money_is_for_is_told_in_parts_of_the_bound() -> None:
    paid = {"ready_h": 20.0, "busy": 0.75, "loading_h": 5.0, "stopped_usd": 1.0}
    least: Row = row(BOUND, 0.0, 0.0, 0.0) | dict.fromkeys(score.BOUNDS, 5.0)
    rows = [least, row("posthouse", 11.0, 5.0, 0.01) | paid, row("slow", 9.0, 50.0, 0.2)]
    money = score.summary(score.scenarios(rows), {}, "posthouse", ["slow"], [])["money"]["3"]
    ready = 20.0 * READY_USD_H / 5
    split = {"working": 0.75 * ready, "idle": 0.25 * ready, "loading": ready / 4, "stopped": 0.2}
    assert money["posthouse"] == pytest.approx(split | {"all": 2.2, "over_10": 0.01})
    assert sum(split.values()) == pytest.approx(2.2)
    assert money["best rival"]["all"] == 1.8
    assert money.keys() == {"posthouse", "best rival"}


def test_what_was_run_is_kept_and_a_torn_line_is_not(traces: list[Trace], tmp_path: Path) -> None:
    grid = Grid(traces, tmp_path)
    cell = Cell("steps", 0.5, *STARTS[0], 0, 600.0)
    path = tmp_path / "runs.jsonl"
    wanted = [(cell, BOUND), (cell, "knative")]
    first = results(grid, wanted, ResultCache(path), 1, Progress())
    assert [r["policy"] for r in first] == [BOUND, "knative"]
    assert first[0]["wait_10_usd"] <= first[0]["wait_0_usd"] <= first[1]["usd"]
    path.write_text(path.read_text() + '{"key": "torn')
    assert results(grid, wanted, ResultCache(path), 0, Progress()) == first
    assert [r["policy"] for r in results(grid, [*wanted, (cell, "hpa")], ResultCache(path), 0, Progress())] == [
        BOUND,
        "knative",
    ]


@pytest.mark.long
def test_a_run_whose_queue_only_grows_is_not_gone_on_with(
    traces: list[Trace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "HOPELESS_S", 60.0)  # or it is a long wait for the tests, too
    monkeypatch.setattr(runs, "HOPELESS_CREATIONS", 1.0)
    grid, cell = Grid(traces, tmp_path), Cell("steps", 3.0, *STARTS[2], 0, 3600.0)
    mean = "static(share=0)"
    (found,) = results(grid, [(cell, mean)], ResultCache(tmp_path / "runs.jsonl"), 1, Progress())
    assert found["gave_up"].endswith("requests wait")
    assert score.scenarios([found, row("posthouse", 1.0, 1.0, 0.0)]).keys() == {"a/3/5-120"}


def test_a_run_that_begins_with_a_long_queue_is_gone_on_with() -> None:
    watched = runs._Watched(decide, most=100.0, longest_s=480.0)

    def look(now: float, waiting: int) -> None:
        demand = Demand(waiting_count=waiting)
        watched(Snapshot(now, Endpoint(EndpointId(1), "e"), (), demand, (), Estimates()), Memory())

    for now, waiting in ((0, 0), (1, 101), (480, 5000), (481, 100), (482, 101), (961, 101)):
        look(now, waiting)
    for now, waiting in ((962, 101), (0, runs.HOPELESS + 1)):
        with pytest.raises(runs._Hopeless):
            look(now, waiting)


@pytest.mark.long
def test_the_quick_evaluation_of_one_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = ["--quick", "--cells", "spikes/0.5/*", "--jobs", "1", "--cache", str(tmp_path), "--output", str(tmp_path)]
    assert main(said) == 0
    assert "spikes/0.5/5-120" in capsys.readouterr().out
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["summary"]["posthouse"]["scenarios"] == 1
    every = json.loads((tmp_path / "evaluation" / "rows.json").read_text())
    rows = [dict(zip(every["columns"], row, strict=True)) for row in every["rows"]]
    assert {"posthouse", "posthouse+foresight", "knative"} <= {r["policy"] for r in rows}
    assert all(r["broken"] is None and r["usd"] > every["bounds"][r["cell"]]["wait_30_usd"] for r in rows)
    told = (tmp_path / "evaluation.md").read_text()
    assert "spikes/0.5/5-120" in told
    assert (tmp_path / "evaluation" / "spikes.png").stat().st_size > 1000
    assert main([*said[:2], "nothing", *said[3:]]) == 2
