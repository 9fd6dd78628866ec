"""Writes what an evaluation came to: the summary and every row as JSON, a report to read, and pictures."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.evaluate import score
from benchmarks.evaluate.runs import BOUND, SEES, Row, is_ours, variant
from benchmarks.evaluate.score import MEASURES, Scenarios

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = ("cell", "policy", *MEASURES, "cpu_s", "gave_up", "broken")
COLOURS = {"posthouse": "#c44536", "auto": "#1f6f8b"}
DOTS = 70
"""Per inch, in pictures."""


@dataclass(frozen=True, slots=True)
class EvaluationInfo:
    """What was evaluated."""

    split: str
    traces: Sequence[str]
    defaults: Sequence[str]
    cells: str = ""
    """Patterns of the cells that were run; empty for all."""


def write(
    folder: Path,
    report: Path,
    rows: Sequence[Row],
    judged: Mapping[str, dict[str, Any]],
    front: Mapping[str, dict[str, Any]],
    info: EvaluationInfo,
) -> None:
    """Writes the report, the summary `evaluation.json`, and rows and pictures into the folder `evaluation`.

    The last is not committed.
    """
    large = folder / "evaluation"
    large.mkdir(parents=True, exist_ok=True)
    runs = [row for row in rows if row["policy"] != BOUND]
    summary = {"split": info.split, "traces": list(info.traces), "summary": judged, "front": front}
    (folder / "evaluation.json").write_text(json.dumps(summary, separators=(",", ":")) + "\n", encoding="utf-8")
    tree = {
        "columns": COLUMNS,
        "rows": [[row.get(column) for column in COLUMNS] for row in runs],
        "bounds": {
            row["cell"]: {name: round(row[name], 4) for name in score.BOUNDS} for row in rows if row["policy"] == BOUND
        },
    }
    (large / "rows.json").write_text(_lines(tree), encoding="utf-8")
    found = score.scenarios(rows)
    _draw(large, found, info.defaults)
    report.write_text(_report(found, judged, front, info, runs), encoding="utf-8")


def _lines(tree: Mapping[str, Any]) -> str:
    """JSON with a line for each row, so that two evaluations can be compared."""
    parts = []
    for name, value in tree.items():
        if name == "rows":
            inside = "[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in value) + "\n]"
        else:
            inside = json.dumps(value)
        parts.append(f"{json.dumps(name)}: {inside}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


# -- to read -----------------------------------------------------------------------------------------------------------


def _report(
    found: Scenarios,
    judged: Mapping[str, dict[str, Any]],
    front: Mapping[str, dict[str, Any]],
    info: EvaluationInfo,
    runs: Sequence[Row],
) -> str:
    variants = [policy for policy in judged if not policy.endswith(SEES)]
    swept = {policy for there in found.values() for policy in there} - set(info.defaults) - {BOUND}
    swept = {policy for policy in swept if not is_ours(policy)}
    broken = [f"{row['cell']} {row['policy']}: {row['broken']}" for row in runs if "broken" in row]
    part = f" Of the grid these cells alone: `{info.cells}`." if info.cells else ""
    parts = [
        "# The evaluation",
        "Made by `make evaluate`. What is run is described in the README beside it, words are defined in"
        " `evaluate/score.py`.",
        f"{len(found)} scenarios, {len(runs)} runs, windows and seeds to {info.split}.{part} Traces:"
        f" {', '.join(info.traces)}; the other sources are shapes made up. Rivals with their defaults:"
        f" {', '.join(info.defaults)}; and {len(swept)} points of their sweeps.",
        "## What must hold",
        _table(_goals(judged, variants)),
        "Intervals are of 95 %, by bootstrap over scenarios. The *best rival* is the cheapest one that does not let"
        " wait less than ours, which may be one that hardly serves; one that *serves* keeps 95 % of the work within"
        " 10 s; *as good* is the cheapest one that lets wait no longer than ours. Some scenarios have no such rival.",
        "## At each rival's own waits",
        "A user of ours chooses parameters, too. To each rival with its defaults: what the cheapest of our settings"
        " saves that lets wait no longer than it, where it saves least, and where none waits as little. The settings"
        " are the two variants and those of `settings` in `evaluate/runs.py`, where rivals are swept.",
        _table(score.at_own_waits(front)),
        "## Cost over the clairvoyant bound",
        "The bound permits a wait of 10 s and leaves out 1 % of the work. *Prediction*: cost to that of the same policy"
        " with the true future. *Granularity*: the least with whole workers to the least with divisible ones, both"
        " without any wait. *Without storage*: stopped workers are not counted, which the bound hardly needs.",
        _table(_over_bound(judged, variants)),
        "## What the money is for",
        "In parts of the bound, means over scenarios. What *works* any policy pays for the same work, and the bound"
        " pays for little else. *Idle* is ready and without work: headroom, whole workers, and what stays on against"
        " the next rise. *Over 10 s* is the work, in per cent, that waited longer: where the best rival is cheaper than"
        " ours, that is what its users pay instead.",
        _table(_money(judged, variants)),
        "## Every rival",
        "Means over the scenarios that both met, geometric for cost. Above 1 the rival is dearer.",
        _table(_rivals(found, variants, info.defaults)),
        "## Every scenario",
        _table(score.table(found, variants, info.defaults)),
        "## Rows and pictures",
        "`make evaluate` writes every row to `results/evaluation/rows.json`, and beside it a picture for each source:"
        " cost against the share of work that waited longer than 10 s. Grey: rivals with their defaults, and small the"
        " points of their sweeps; in colour ours, and small our settings. Dashed: the bound. They are not kept in the"
        " repository.",
    ]
    if gave_up := [f"{row['policy']} in {row['cell']}" for row in runs if "gave_up" in row]:
        parts += ["## Runs that were not gone on with", "Their queue only grew.", *(f"- {line}" for line in gave_up)]
    if broken:
        parts += ["## Runs that broke a rule", *(f"- {line}" for line in broken)]
    return "\n\n".join(parts) + "\n"


def _table(lines: Sequence[Mapping[str, str]]) -> str:
    if not lines:
        return "None."
    names = list(lines[0])
    rows = [names, ["---"] * len(names), *([line.get(name, "") for name in names] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _goals(judged: Mapping[str, dict[str, Any]], variants: Sequence[str]) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []

    def add(what: str, goal: str, shown: Mapping[str, tuple[str, bool | None]]) -> None:
        words = {True: "met", False: "missed", None: ""}
        line = {"": what, "goal": goal}
        rows.append(line | {policy: f"{text} {words[well]}".strip() for policy, (text, well) in shown.items()})

    said = {policy: judged[policy] for policy in variants}
    dominated = {p: (len(s["dominated_by_a_rival_default"]), s["scenarios"]) for p, s in said.items()}
    add(
        "scenarios in which a rival's default dominates",
        "0",
        {p: (f"{some} of {every}", some == 0) for p, (some, every) in dominated.items()},
    )
    share = {p: _shown(s, "undominated_by_sweeps_share", 0.8) for p, s in said.items()}
    add("not dominated by any point of a sweep", "80 %", share)
    for which, key, judges in (
        ("the best rival", "best", True),
        ("the best rival that serves", "best_serving", False),
        ("the rival that is as good", "as_good", False),
    ):
        saving, none = f"saving_vs_{key}_rival_default_geomean", f"saving_vs_{key}_rival_default_none"
        worst = "worst_excess_cost" if judges else f"worst_excess_cost_{key}"
        add(
            f"saving to {which}",
            "10 %" if judges else "",
            {p: _shown(s, saving, 0.1 if judges else None) for p, s in said.items()},
        )
        add("scenarios without one", "", {p: (str(s[none]), None) for p, s in said.items()})
        add("dearest to it", "3 %" if judges else "", {p: _worst(s[worst], judges) for p, s in said.items()})
    for size, goal in (("3", 1.6), ("12", 1.15), ("60", 1.15)):
        costs = {p: s["cost_over_bound"].get(size, {}).get("cost") for p, s in said.items()}
        shown = {p: (_span(cost), cost["value"] <= goal if cost else None) for p, cost in costs.items()}
        add(f"cost over the bound, {size} busy workers", f"{goal:g}", shown)
    return rows


def _shown(said: Mapping[str, Any], name: str, goal: float | None) -> tuple[str, bool | None]:
    value = said[name]
    if value is None:
        return "", None
    text = f"{100 * value['value']:.1f} % ({100 * value['low']:.1f} to {100 * value['high']:.1f})"
    return text, None if goal is None else value["value"] >= goal


def _span(value: Mapping[str, float] | None) -> str:
    return f"{value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f})" if value else ""


def _worst(said: Mapping[str, Any] | None, judged: bool) -> tuple[str, bool | None]:
    if said is None:
        return "", None
    return f"{100 * said['excess']:+.1f} % in {said['scenario']}", said["excess"] <= 0.03 if judged else None


def _over_bound(judged: Mapping[str, dict[str, Any]], variants: Sequence[str]) -> list[dict[str, str]]:
    lines = []
    for policy in variants:
        for size, parts in judged[policy]["cost_over_bound"].items():
            line = {"policy": policy, "busy workers": size}
            for part in ("cost", "without_storage", "prediction", "foresight", "granularity"):
                value = parts.get(part)
                words = part.replace("_", " ").replace("foresight", "with foresight, over the bound")
                line[words] = _span(value)
            lines.append(line)
    return lines


def _money(judged: Mapping[str, dict[str, Any]], variants: Sequence[str]) -> list[dict[str, str]]:
    lines = []
    for policy in variants:
        for size, everybody in judged[policy]["money"].items():
            for who, parts in everybody.items():
                words = who if who.startswith(policy) else f"{who}, to {policy}"
                line = {"busy workers": size, "who": words.replace(SEES, " with foresight")}
                line |= {part: f"{parts[part]:.2f}" for part in ("working", "idle", "loading", "stopped", "all")}
                lines.append(line | {"over 10 s, %": f"{100 * parts['over_10']:.1f}"})
    return lines


def _rivals(found: Scenarios, variants: Sequence[str], defaults: Sequence[str]) -> list[dict[str, str]]:
    lines = []
    for name in [*variants, *defaults]:
        line = {"policy": name}
        for mine in variants:
            pairs = [
                (there[mine], there[name])
                for there in found.values()
                if mine in there and name in there and there[mine].draws == there[name].draws
            ]
            if not pairs:
                continue
            logs = [math.log(other.usd / me.usd) for me, other in pairs]
            line[f"cost to {mine}"] = f"{math.exp(sum(logs) / len(logs)):.3f}"
            line[f"no longer waits than {mine}"] = f"{sum(o.waits_no_longer(me) for me, o in pairs)} of {len(pairs)}"
        mean = [there[name].figures for there in found.values() if name in there]
        for words, measure, factor in (
            ("p99 s", "wait_p99_s", 1.0),
            ("over 1 s, %", "over_1", 100.0),
            ("over 10 s, %", "over_10", 100.0),
            ("over 30 s, %", "over_30", 100.0),
            ("turns/h", "turns_h", 1.0),
            ("tick, us", "tick_us", 1.0),
        ):
            line[words] = f"{factor * sum(figures[measure] for figures in mean) / max(1, len(mean)):.4g}"
        lines.append(line)
    return lines


# -- to look at --------------------------------------------------------------------------------------------------------


def _draw(folder: Path, found: Scenarios, defaults: Sequence[str]) -> None:
    """Writes a picture for each source, with a column for each size."""
    from matplotlib.figure import Figure  # takes a second

    columns: dict[str, dict[str, list[str]]] = {}
    for name in found:
        source, size, _ = name.split("/")
        columns.setdefault(source, {}).setdefault(size, []).append(name)
    for source, sizes in columns.items():
        rows = max(map(len, sizes.values()))
        figure = Figure(figsize=(4 * len(sizes), 0.4 + 3 * rows), layout="constrained")
        panels = figure.subplots(rows, len(sizes), squeeze=False)
        for column, (size, names) in enumerate(sizes.items()):
            for row in range(rows):
                panel = panels[row][column]
                if row >= len(names):
                    panel.set_axis_off()
                    continue
                start_s, create_s = names[row].split("/")[2].split("-")
                panel.set_title(f"{size} busy, start {start_s} s, creation {create_s} s", fontsize=9)
                _panel(panel, found[names[row]], defaults)
        figure.suptitle(source)
        figure.savefig(folder / f"{source}.png", dpi=DOTS, metadata={"Software": ""})


def _panel(panel: "Axes", there: Mapping[str, score.Scored], defaults: Sequence[str]) -> None:
    """Cost to the left, waiting below: whoever has nobody to the left and below is on the front."""
    for name, scored in there.items():
        if name == BOUND:
            panel.axvline(scored.figures["wait_10_usd"], color="#888888", linestyle="--", linewidth=1)
            continue
        at = scored.usd, max(100 * scored.over, 0.01)
        colour = COLOURS.get(variant(name))
        if colour and "(" in name:
            panel.plot(*at, marker=".", color=colour, markersize=3, zorder=2)
        elif colour:
            panel.plot(*at, marker="o" if not name.endswith(SEES) else "^", color=colour, markersize=8, zorder=3)
        elif name in defaults:
            panel.plot(*at, marker="s", color="#777777", markersize=4)
            panel.annotate(name, at, fontsize=6, color="#444444", xytext=(2, 2), textcoords="offset points")
        else:
            panel.plot(*at, marker=".", color="#bbbbbb", markersize=2, zorder=1)
    panel.set_yscale("log")
    panel.set_xlabel("dollars", fontsize=8)
    panel.set_ylabel("% of work over 10 s", fontsize=8)
    panel.tick_params(labelsize=7, which="both")
