"""From rows to a judgement: what ours costs and how long it lets wait, against every rival and against the bounds.

A scenario is a trace or shape at one size with one pair of start times; its figures are means over its draws.

- A policy *lets wait no longer* than another if its share of work over the goal is not above the other's, and its 99th
  percentile of waits not by more than a tenth of a second.
- It *dominates* another if it is cheaper, lets wait no longer, and is better by one of the two measures of waiting.
- A policy *gave up* in a scenario if its queue grew so long that the run was not gone on with. It is left out there.
- The *best rival default* for ours is the cheapest rival that does not let wait less than ours: at equal or better
  waits of ours. That may be one that hardly serves; `best_serving` is the same among those that keep at least 95 % of
  the work within the goal. `as_good` is the other way round: the cheapest rival that lets wait no longer than ours.
- The *front* asks it of every rival at that rival's own waits: what the cheapest of our settings costs that lets wait
  no longer than it does. Source: the evaluation protocol, which compares points of fronts.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.evaluate.runs import BOUND, SEES, Row, is_ours
from benchmarks.evaluate.scenarios import READY_USD_H

TOLERANCE_S = 0.1
SERVING = 0.05
"""Largest share of work over the goal of a rival that serves."""
DRAWS = 2000
"""Of the bootstrap."""
HARDEST = "hardest"
MEASURES = (
    *("usd", "wait_p50_s", "wait_p95_s", "wait_p99_s", "wait_max_s", "over_1", "over_10", "over_30", "unserved"),
    *("ready_h", "loading_h", "stopped_h", "stopped_usd", "starts", "rents", "busy", "turns_h", "tick_us"),
)
BOUNDS = ("wait_0_usd", "wait_10_usd", "wait_30_usd", "no_wait_usd", "whole_usd")


@dataclass(frozen=True, slots=True)
class Scored:
    """One policy in one scenario: means over draws."""

    policy: str
    draws: frozenset[str]
    figures: Mapping[str, float]

    @property
    def usd(self) -> float:
        return self.figures["usd"]

    @property
    def p99_s(self) -> float:
        return self.figures["wait_p99_s"]

    @property
    def over(self) -> float:
        return self.figures["over_10"]

    def waits_no_longer(self, other: "Scored") -> bool:
        return self.over <= other.over and self.p99_s <= other.p99_s + TOLERANCE_S

    def waits_less(self, other: "Scored") -> bool:
        """Better by one of the two measures."""
        return self.over < other.over or self.p99_s < other.p99_s - TOLERANCE_S

    def dominates(self, other: "Scored") -> bool:
        return self.usd < other.usd and self.waits_no_longer(other) and self.waits_less(other)


Scenarios = dict[str, dict[str, Scored]]
"""Policies, and the bounds, by the scenario's name and theirs."""


def scenarios(rows: Iterable[Row]) -> Scenarios:
    """The figures of every policy in every scenario; a policy that gave up in one draw has fewer draws there."""
    grouped: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if "broken" not in row and "gave_up" not in row:
            grouped[row["scenario"]][row["policy"]].append(row)
    return {
        name: {
            policy: Scored(
                policy,
                frozenset(row["cell"] for row in many),
                {m: sum(row[m] for row in many) / len(many) for m in (BOUNDS if policy == BOUND else MEASURES)},
            )
            for policy, many in there.items()
        }
        for name, there in grouped.items()
    }


def comparable(there: Mapping[str, Scored], mine: str, others: Iterable[str]) -> list[Scored]:
    """Those of the others that met the same draws."""
    me = there[mine]
    return [there[name] for name in others if name in there and there[name].draws == me.draws]


def best_default(me: Scored, rivals: Sequence[Scored]) -> Scored | None:
    """The cheapest rival that does not let wait less than ours."""
    return min((r for r in rivals if me.waits_no_longer(r)), key=lambda r: r.usd, default=None)


def best_serving(me: Scored, rivals: Sequence[Scored]) -> Scored | None:
    """The same, of those that keep enough of the work within the goal."""
    return best_default(me, [r for r in rivals if r.over <= SERVING])


def as_good(me: Scored, rivals: Sequence[Scored]) -> Scored | None:
    """The cheapest rival that lets wait no longer than ours."""
    return min((r for r in rivals if r.waits_no_longer(me)), key=lambda r: r.usd, default=None)


def summary(
    found: Scenarios, dense: Scenarios, mine: str, defaults: Sequence[str], swept: Sequence[str]
) -> dict[str, Any]:
    """All that is judged of one variant of ours. `dense`: of the draws alone in which rivals are swept."""
    names = [name for name, there in found.items() if mine in there and comparable(there, mine, defaults)]
    dominated: dict[str, list[str]] = {}
    choices = {"best": best_default, "best_serving": best_serving, "as_good": as_good}
    savings: dict[str, dict[str, float]] = {which: {} for which in choices}
    for name in names:
        there = found[name]
        me, rivals = there[mine], comparable(there, mine, defaults)
        if above := [rival.policy for rival in rivals if rival.dominates(me)]:
            dominated[name] = above
        for which, choose in choices.items():
            if rival := choose(me, rivals):
                savings[which][name] = me.usd / rival.usd
    said: dict[str, Any] = {
        "scenarios": len(names),
        "dominated_by_a_rival_default": dominated,
        "undominated_by_sweeps_share": _share(
            [
                not any(rival.dominates(there[mine]) for rival in comparable(there, mine, [*swept, *defaults]))
                for there in dense.values()
                if mine in there and comparable(there, mine, swept)
            ]
        ),
    }
    for which, ratios in savings.items():
        prefix = f"saving_vs_{which}_rival_default"
        said |= {
            f"{prefix}_geomean": _geomean(ratios.values(), lambda ratio: round(1 - ratio, 4)),
            f"{prefix}_none": len(names) - len(ratios),
            f"worst_excess_cost{'' if which == 'best' else f'_{which}'}": _dearest(ratios),
        }
    said["cost_over_bound"] = {f"{size:g}": _over_bound(found, mine, size) for size in _sizes(found, mine)}
    said["money"] = {f"{size:g}": _money(found, mine, size, defaults) for size in _sizes(found, mine)}
    return said


def front(found: Scenarios, defaults: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What ours saves at each rival's own waits, and where it saves least, over the scenarios with settings of ours.

    `unmet`: scenarios in which no setting of ours lets wait as little as the rival. The last row is of the rival that
    is dearest to meet in each scenario.
    """
    ratios: dict[str, dict[str, float]] = {rival: {} for rival in (*defaults, HARDEST)}
    unmet: dict[str, list[str]] = {rival: [] for rival in ratios}
    for name, there in found.items():
        own = [policy for policy in there if is_ours(policy) and not policy.endswith(SEES)]
        if not any("(" in policy for policy in own):
            continue
        for rival in [there[policy] for policy in defaults if policy in there]:
            points = [point for point in comparable(there, rival.policy, own) if point.waits_no_longer(rival)]
            if points:
                ratio = ratios[rival.policy][name] = min(point.usd for point in points) / rival.usd
                ratios[HARDEST][name] = max(ratio, ratios[HARDEST].get(name, 0.0))
            else:
                unmet[rival.policy].append(name)
        if any(name in missed for missed in unmet.values()):
            unmet[HARDEST].append(name)
    return {
        rival: {
            "saving": _geomean(of.values(), lambda ratio: round(1 - ratio, 4)),
            "worst": _dearest(of),
            "unmet": unmet[rival],
        }
        for rival, of in ratios.items()
    }


def _dearest(ratios: Mapping[str, float]) -> dict[str, Any] | None:
    """The scenario of the highest ratio."""
    worst = max(ratios, key=lambda name: ratios[name], default=None)
    return None if worst is None else {"scenario": worst, "excess": round(ratios[worst] - 1, 4)}


def _money(found: Scenarios, mine: str, size: float, defaults: Sequence[str]) -> dict[str, dict[str, float]]:
    """What is paid for, in parts of the clairvoyant bound: means over scenarios, for ours and those it is judged by."""
    parts: dict[str, list[dict[str, float]]] = defaultdict(list)
    for there in _bounded(found, mine, size):
        me, rivals = there[mine], comparable(there, mine, defaults)
        compared = {mine: me, mine + SEES: there.get(mine + SEES)}
        compared |= {"best rival": best_default(me, rivals), "as good": as_good(me, rivals)}
        for who, scored in compared.items():
            if scored is not None:
                parts[who].append(_bill(scored, there[BOUND].figures["wait_10_usd"]))
    return {
        who: {part: round(sum(row[part] for row in rows) / len(rows), 4) for part in rows[0]}
        for who, rows in parts.items()
    }


def _bill(scored: Scored, least_usd: float) -> dict[str, float]:
    """What its dollars are for, in parts of `least_usd`; and the share of work over the goal that they left."""
    figures = scored.figures
    ready, used = figures["ready_h"] * READY_USD_H / least_usd, figures["busy"]
    return {
        "working": used * ready,
        "idle": (1 - used) * ready,
        "loading": figures["loading_h"] * READY_USD_H / least_usd,
        "stopped": figures["stopped_usd"] / least_usd,
        "all": scored.usd / least_usd,
        "over_10": scored.over,
    }


def _bounded(found: Scenarios, mine: str, size: float) -> Iterator[dict[str, Scored]]:
    """The scenarios of a size in which ours and the bound met the same draws."""
    for name, there in found.items():
        if _size(name) == size and mine in there and BOUND in there and there[mine].draws == there[BOUND].draws:
            yield there


def _sizes(found: Scenarios, mine: str) -> list[float]:
    return sorted({_size(name) for name, there in found.items() if mine in there and BOUND in there})


def _size(scenario_name: str) -> float:
    return float(scenario_name.split("/")[1])


def _over_bound(found: Scenarios, mine: str, size: float) -> dict[str, Any]:
    """Cost over the clairvoyant bound with 10 s of permitted waiting, and what it is made of."""
    parts: dict[str, list[float]] = defaultdict(list)
    for there in _bounded(found, mine, size):
        me, least = there[mine], there[BOUND].figures
        parts["cost"].append(me.usd / least["wait_10_usd"])
        parts["without_storage"].append((me.usd - me.figures["stopped_usd"]) / least["wait_10_usd"])
        parts["granularity"].append(least["whole_usd"] / least["no_wait_usd"])
        seer = there.get(mine + SEES)
        if seer is not None and seer.draws == me.draws:
            parts["prediction"].append(me.usd / seer.usd)
            parts["foresight"].append(seer.usd / least["wait_10_usd"])
    return {part: _geomean(ratios, lambda ratio: round(ratio, 4)) for part, ratios in parts.items()}


def _share(values: Sequence[float]) -> dict[str, Any] | None:
    """The mean, with an interval of 95 % over scenarios."""
    return _interval(np.asarray(values, dtype=np.float64), lambda mean: round(mean, 4)) if values else None


def _geomean(ratios: Iterable[float], shown: Callable[[float], float]) -> dict[str, Any] | None:
    logs = np.log(np.asarray([*ratios], dtype=np.float64))
    return _interval(logs, lambda mean: shown(math.exp(mean))) if len(logs) else None


def _interval(values: "np.ndarray[Any, np.dtype[np.float64]]", shown: Callable[[float], float]) -> dict[str, Any]:
    random = np.random.default_rng(0)
    means = values[random.integers(0, len(values), (DRAWS, len(values)))].mean(axis=1)
    ends = sorted(shown(float(end)) for end in np.percentile(means, [2.5, 97.5]))
    return {"value": shown(float(values.mean())), "low": ends[0], "high": ends[1], "scenarios": len(values)}


def table(found: Scenarios, mine: Sequence[str], defaults: Sequence[str]) -> list[dict[str, str]]:
    """A line for each scenario and variant of ours, against the rivals and the bound."""
    lines = []
    for name, there in found.items():
        for me in [there[policy] for policy in mine if policy in there]:
            rivals = comparable(there, me.policy, defaults)
            least = there[BOUND].figures["wait_10_usd"] if BOUND in there else math.nan
            lines.append(
                {
                    "scenario": name,
                    "policy": me.policy,
                    "usd": f"{me.usd:.3f}",
                    "p99 s": f"{me.p99_s:.1f}",
                    "over 10 s, %": f"{100 * me.over:.2f}",
                    "turns/h": f"{me.figures['turns_h']:.0f}",
                    "storage": f"{me.figures['stopped_usd']:.3f}",
                    "x bound": f"{me.usd / least:.2f}",
                    "to best rival": _against(me, best_default(me, rivals)),
                    "to best that serves": _against(me, best_serving(me, rivals)),
                    "to as good": _against(me, as_good(me, rivals)),
                    "dominated by": " ".join(rival.policy for rival in rivals if rival.dominates(me)),
                }
            )
    return lines


def _against(me: Scored, rival: Scored | None) -> str:
    if rival is None:
        return "none"
    return f"{100 * (me.usd / rival.usd - 1):+.1f} % {rival.policy} ({rival.p99_s:.1f} s, {100 * rival.over:.2f} %)"


def brief(judged: Mapping[str, dict[str, Any]]) -> list[dict[str, str]]:
    """A line for each variant of ours."""
    return [
        {
            "policy": policy,
            "scenarios": str(said["scenarios"]),
            "dominated": str(len(said["dominated_by_a_rival_default"])),
            "undominated by sweeps": _percent(said["undominated_by_sweeps_share"]),
            "saving to best": _percent(said["saving_vs_best_rival_default_geomean"]),
            "worst": _worst(said["worst_excess_cost"]),
            "saving to best that serves": _percent(said["saving_vs_best_serving_rival_default_geomean"]),
            "saving to as good": _percent(said["saving_vs_as_good_rival_default_geomean"]),
            "worst ": _worst(said["worst_excess_cost_as_good"]),
            "x bound by size": "  ".join(f"{k}: {v['cost']['value']:.2f}" for k, v in said["cost_over_bound"].items()),
        }
        for policy, said in judged.items()
    ]


def at_own_waits(front: Mapping[str, dict[str, Any]]) -> list[dict[str, str]]:
    """A line for each rival, of what `front` returns."""
    return [
        {
            "rival": rival,
            "saving at its waits": _percent(said["saving"]),
            "least": _worst(said["worst"]),
            "unmet in": ", ".join(said["unmet"]),
        }
        for rival, said in front.items()
    ]


def _percent(said: Mapping[str, float] | None) -> str:
    if said is None:
        return "none"
    value, low, high = (100 * said[name] for name in ("value", "low", "high"))
    return f"{value:.1f} % ({low:.1f} to {high:.1f}, n {said['scenarios']})"


def _worst(said: Mapping[str, Any] | None) -> str:
    return "none" if said is None else f"{100 * said['excess']:+.1f} % {said['scenario']}"


def columns(lines: Sequence[Mapping[str, str]]) -> str:
    """The lines as text, one column under the other."""
    if not lines:
        return ""
    names = list(lines[0])
    widths = [max(len(name), *(len(line[name]) for line in lines)) for name in names]
    rows = [names, *([line[name] for name in names] for line in lines)]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
