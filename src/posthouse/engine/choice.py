"""Which providers a workergroup may rent from, and in which regions, in the words that users write."""

from collections.abc import Collection, Iterable, Mapping

from posthouse.errors import BadRequest
from posthouse.wire.matching import is_in_region

ANY = "any"
SHOWN = 20
"""Most names in a message."""


def words_of(text: str) -> list[str]:
    """The words of a text that has commas between them."""
    return [word for part in text.split(",") if (word := part.strip())]


def chosen(words: str, types: Mapping[str, str], classes: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """The providers that words with commas between name, in the order of `types`. Raises: BadRequest.

    A word is the name of a provider; or the type or a class of several, as its settings say it; or `any`.

    `types`: the type of each provider, by name. `classes`: the classes of those that have some.
    """
    found: set[str] = set()
    for word in words_of(words):
        meant = {word} & types.keys() or {n for n in types if word in (ANY, types[n]) or word in classes.get(n, ())}
        if not meant:
            groups = {*types.values(), *(name for named in classes.values() for name in named)} - types.keys()
            known = ", ".join([*types, *sorted(groups), ANY])
            raise BadRequest(f"provider: there is no provider, type or class {word[:64]!r}; allowed: {known}")
        found |= meant
    return tuple(name for name in types if name in found)


def check_regions(filters: Mapping[str, Mapping[str, object]], zones: Collection[str] | None, providers: str) -> None:
    """Raises: BadRequest for a region in which none of the providers was ever seen to have a machine.

    `zones`: where they have some; None while one of them has not said it yet.
    """
    wanted = filters.get("region", {})
    words = [word for op in ("eq", "in") for word in _listed(wanted.get(op, ()))]
    for word in words if zones is not None else ():
        if not any(is_in_region(zone, str(word)) for zone in zones or ()):
            raise BadRequest(
                f"region: {str(word)[:64]!r} is not among the regions of {providers}; there is: {_shown(zones or ())}"
            )


def _listed(value: object) -> Iterable[object]:
    return value if isinstance(value, list | tuple) else (value,)


def _shown(zones: Iterable[str]) -> str:
    known = sorted(zones)
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return ", ".join(known[:SHOWN]) + more if known else "nothing; a provider's setting `region` says where it is"
