"""How much work a request is, in the units in which the worker's performance is measured."""

import math
from collections.abc import Callable
from typing import Final

MAX_WORK: Final = 1e9  # work units of one request; no real one comes near, and sums of thousands stay exact

_TOKENS: Final = ("max_tokens", "max_new_tokens", "max_completion_tokens")
_TOKEN_PLACES: Final = ((), ("parameters",), ("input", "parameters"))

WorkloadRule = Callable[[object, float], float]
"""The work of a request, from its decoded payload (None if it is not JSON) and the cost that its client announced."""


def workload_rule(text: str) -> WorkloadRule:
    """Return the rule that `text` names.

    tokens            the tokens asked for: max_tokens, max_new_tokens or max_completion_tokens, at the top, under
                      `parameters` or under `input.parameters`
    json:a.b          the number at that path of the payload
    cost              the cost that the client announced
    constant:2.5      always the same

    Where the payload has no such number, the announced cost counts. The result is finite, above 0, at most 1e9.

    Raises: ValueError when `text` names no rule.
    """
    kind, _, argument = text.partition(":")
    if text == "tokens":
        return lambda payload, cost: _work(_tokens(payload), cost)
    if text == "cost":
        return lambda payload, cost: _work(cost)
    if kind == "json" and all(path := argument.split(".")):
        return lambda payload, cost: _work(_number(payload, path), cost)
    if kind == "constant":
        try:
            constant = float(argument)
        except ValueError:
            constant = math.nan
        if 0 < constant <= MAX_WORK:
            return lambda payload, cost: constant
    raise ValueError(f"workload: must be tokens, cost, json:<dotted.path> or constant:<number above 0>, not {text!r}")


def _work(*candidates: float | None) -> float:
    """Return the first candidate that can be an amount of work, 1 if there is none."""
    for candidate in candidates:
        if candidate is not None and candidate > 0:  # false for NaN
            return min(candidate, MAX_WORK)
    return 1.0


def _tokens(payload: object) -> float | None:
    for place in _TOKEN_PLACES:
        for name in _TOKENS:
            if (found := _number(payload, (*place, name))) is not None:
                return found
    return None


def _number(payload: object, path: tuple[str, ...] | list[str]) -> float | None:
    value = payload
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(min(value, MAX_WORK))  # an integer of 400 digits has no float
