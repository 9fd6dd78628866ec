"""Values from outside: within bounds, or refused in words that name the field, the problem and what is allowed."""

import difflib
import math
from collections.abc import Iterable

from posthouse.errors import BadRequest

MAX_WORK = 1e12
"""Largest amount of work, or work per second, that is believed in. Above it sums would lose whole units."""

MAX_INTEGER = 2**53
"""Largest whole number that every JSON reader keeps."""


def number(value: object, field: str, low: float = 0.0, high: float = MAX_WORK) -> float:
    """`value` as a float within `low` and `high`. A string that spells a number counts as one.

    Raises: BadRequest naming the field.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _no_number(value, field, low, high)
    try:
        result = float(value)
    except (ValueError, OverflowError):
        raise _no_number(value, field, low, high) from None
    if not (math.isfinite(result) and low <= result <= high):
        raise _no_number(value, field, low, high)
    return result


def integer(value: object, field: str, low: int = 0, high: int = MAX_INTEGER) -> int:
    """`value` as an integer within `low` and `high`; 7.0 and "7" count as 7. Raises: BadRequest naming the field."""
    if isinstance(value, int) and not isinstance(value, bool):
        if low <= value <= high:
            return value
    elif isinstance(value, float | str):
        result = number(value, field, low, high)
        if result == int(result):
            return int(result)
    raise BadRequest(f"{field}: must be a whole number from {low} to {high}, not {shown(value)}")


def unknown(name: str, allowed: Iterable[str], what: str = "field") -> BadRequest:
    """The refusal of a name that does not exist: with the nearest one that does, and all of them."""
    names = list(allowed)
    near = difflib.get_close_matches(name, names, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return BadRequest(f"{name[:64]}: there is no such {what}.{hint} Allowed: {', '.join(names)}")


def shown(value: object) -> str:
    """The value as a message repeats it: at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _no_number(value: object, field: str, low: float, high: float) -> BadRequest:
    return BadRequest(f"{field}: must be a number from {low:g} to {high:g}, not {shown(value)}")
