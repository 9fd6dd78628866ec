"""Which offers satisfy a search: filters `{field: {op: value}}`, as `search` parses them."""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Final

from posthouse.domain.offer import Offer

REGION: Final = "region"
OWN_FIELDS: Final = ("interruptible", "provider", REGION)
"""What searches may ask for beyond the protocol."""


def matches(filters: Mapping[str, Mapping[str, object]], values: Mapping[str, object]) -> bool:
    """True if `values` satisfies every filter on a field that it has; other fields are ignored.

    Numbers are compared as numbers, also with a string that states one; text without regard to case and `_`. A region
    is a hard bound: what does not say where it is satisfies no filter on it.
    """
    return all(
        _of_region(op, str(values[field]), wanted) if field == REGION else _TESTS[op](values[field], wanted)
        for field, conditions in filters.items()
        if field in values
        for op, wanted in conditions.items()
    )


def values_of(offer: Offer, usd_h: float) -> dict[str, object]:
    """What searches may ask of an offer that costs `usd_h` with its disk, in the protocol's names and units."""
    return {
        "id": offer.id,
        "machine_id": offer.machine,
        "gpu_name": offer.gpu_name,
        "num_gpus": offer.num_gpus,
        "gpu_ram": offer.gpu_ram_mb,
        "gpu_total_ram": offer.gpu_ram_mb * offer.num_gpus,
        "reliability": offer.reliability,
        **({"geolocation": offer.zone} if offer.zone else {}),
        **offer.attributes,
        REGION: offer.zone,
        "provider": offer.provider,
        "interruptible": offer.capabilities.interruptible,
        "dph_total": usd_h,
    }


def is_in_region(zone: str, region: str) -> bool:
    """Whether a zone is in a region, in a provider's words: `eu-west-1` is in `eu` and in `eu-west`, and `Berlin, DE`
    in `DE`."""
    wanted = _plain(region)
    parts = [part.strip() for part in (_plain(zone), *_plain(zone).split(","))]
    return bool(wanted) and any(part == wanted or part.startswith((f"{wanted}-", f"{wanted}/")) for part in parts)


def _of_region(op: str, zone: str, wanted: object) -> bool:
    words = wanted if isinstance(wanted, list) else [wanted]
    inside = any(is_in_region(zone, str(word)) for word in words)
    return bool(zone) and (inside if op in ("eq", "in") else op in ("neq", "notin") and not inside)


def _plain(value: object) -> str:
    return str(value).replace("_", " ").casefold()


def number(value: object) -> float | None:
    """The finite number that `value` is or states, or None."""
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _equal(actual: object, wanted: object) -> bool:
    if isinstance(actual, int | float):
        return number(wanted) == actual
    return _plain(actual) == _plain(wanted)


def _is_in(actual: object, wanted: object) -> bool:
    return any(_equal(actual, item) for item in (wanted if isinstance(wanted, list) else [wanted]))


def _ordered(compare: Callable[[float, float], bool]) -> Callable[[object, object], bool]:
    def test(actual: object, wanted: object) -> bool:
        left, right = number(actual), number(wanted)
        return left is not None and right is not None and compare(left, right)

    return test


_TESTS: Final[dict[str, Callable[[object, object], bool]]] = {
    "eq": _equal,
    "neq": lambda actual, wanted: not _equal(actual, wanted),
    "gt": _ordered(operator.gt),
    "gte": _ordered(operator.ge),
    "lt": _ordered(operator.lt),
    "lte": _ordered(operator.le),
    "in": _is_in,
    "notin": lambda actual, wanted: not _is_in(actual, wanted),
}
