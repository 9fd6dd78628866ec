"""Numbers from outside: finite, within bounds, or refused by name."""

import math

from posthouse.domain.errors import BadRequest

MAX_WORK = 1e12
"""Largest amount of work, or work per second, that is believed in. Above it sums would lose whole units."""

MAX_INTEGER = 2**53
"""Largest whole number that every JSON reader keeps."""


def number(value: object, field: str, low: float = 0.0, high: float = MAX_WORK) -> float:
    """`value` as a float within `low` and `high`. A string that spells a number counts as one.

    Raises: BadRequest naming the field.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise BadRequest(f"{field}: must be a number from {low:g} to {high:g}, not {_shown(value)}")
    try:
        result = float(value)
    except (ValueError, OverflowError):
        raise BadRequest(f"{field}: must be a number from {low:g} to {high:g}, not {_shown(value)}") from None
    if not (math.isfinite(result) and low <= result <= high):
        raise BadRequest(f"{field}: must be a number from {low:g} to {high:g}, not {_shown(value)}")
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
    raise BadRequest(f"{field}: must be a whole number from {low} to {high}, not {_shown(value)}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
