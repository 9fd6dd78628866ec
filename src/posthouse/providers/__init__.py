"""Where workers can be had: adapters of the `Provider` port, found by entry point."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from posthouse.domain.errors import PosthouseError

GROUP = "posthouse.providers"


def providers() -> Mapping[str, EntryPoint]:
    """Return every installed provider by name; `.load()` gives its class.

    Raises: PosthouseError on a name used twice.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in found:
            raise PosthouseError(
                f"provider {point.name!r} is there twice: {found[point.name].value} and {point.value}; uninstall one"
            )
        found[point.name] = point
    return MappingProxyType(found)
