"""Figures and decisions in words, for people."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

MAX_REASONS: Final = 2
"""Most obstacles and rentals that a text names."""
_DOES: Final = {"hot": "Wake", "cold": "Let rest", "gone": "Destroy", "updated": "Update"}


def work(amount: float) -> str:
    """Three significant digits, with k, M or G from a thousand on."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(amount) >= 0.9995 * limit:
            return f"{_digits(amount / limit)}{unit}"
    return _digits(amount)


def span(seconds: float) -> str:
    """A span of time: `92 ms`, `0.8 s`, `41 s`, `6 min 12 s`, `3 h 12 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds < 0.1 else f"{seconds:.1f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole < 86_400 else f"{whole // 86_400} d"


def usd(amount: float) -> str:
    """US dollars: two decimals, four below a cent."""
    return f"${amount:,.4f}" if 0 < amount < 0.01 else f"${amount:,.2f}"


def title(decision: Mapping[str, Any]) -> str:
    """What a decision does, in a few words. `decision`: as `journal.plain` has it."""
    by_goal: dict[str, list[str]] = {}
    for worker_id, goal in decision["goals"].items():
        by_goal.setdefault(goal, []).append(worker_id)
    done = [f"{_DOES.get(goal, goal)} {_workers(ids)}" for goal, ids in by_goal.items()]
    rented = Counter("cold " if rental["goal"] == "cold" else "" for rental in decision["rentals"])
    done += [f"Rent {count} {kind}worker{'s' * (count > 1)}" for kind, count in rented.items()]
    return ", ".join(text if not n else text[0].lower() + text[1:] for n, text in enumerate(done)) or "No change"


def text(decision: Mapping[str, Any]) -> str:
    """Why, in at most three sentences: need against supply, then what stood in the way, or how it was chosen."""
    because: list[dict[str, Any]] = decision["because"]
    found = {reason["what"]: reason for reason in because}
    if (state := found.get("endpoint state")) is not None:
        return f"The endpoint is {state['value']}."
    sentences = []
    load, need, ready = found.get("load", {}).get("value"), decision["hot_need"], decision["ready_supply"]
    if isinstance(load, int | float) and need is not None:
        has = "capacity is not measured yet" if ready is None else f"{work(ready)} is ready"
        sentences.append(f"{work(load)} of load needs {work(need)}; {has}.")
    reasons = [reason for reason in because if reason["obstacle"]] or [
        reason for reason in because if str(reason["what"]).endswith(" worker")
    ]
    sentences += _sentences(reasons)
    return " ".join(sentences)


def _sentences(reasons: Iterable[Mapping[str, Any]]) -> list[str]:
    found: list[str] = []
    for reason in reasons:
        what, value, rule = str(reason["what"]), reason["value"], str(reason["rule"])
        shown = "" if isinstance(value, int | float) else f" {value}".replace(" 0x ", " ")  # a machine without GPUs
        sentence = f"{what[:1].upper()}{what[1:]}{shown}: {rule}."
        if sentence not in found:
            found.append(sentence)
    return found[:MAX_REASONS]


def _workers(ids: list[str]) -> str:
    return f"worker {ids[0]}" if len(ids) == 1 else f"{len(ids)} workers"


def _digits(amount: float) -> str:
    if not amount:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(amount)) + 1e-12))
    shown = f"{amount:.{decimals}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown
