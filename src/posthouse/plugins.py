"""Plug-ins, found by entry point."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from posthouse.errors import PosthouseError

PROVIDERS = "posthouse.providers"
"""The group of entry points of providers: `NAME = "package.module:Class"`."""


@cache
def installed(group: str) -> Mapping[str, EntryPoint]:
    """Every installed plug-in of a group, by name; `.load()` gives what it is.

    Raises: PosthouseError on a name used twice.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        if point.name in found:
            raise PosthouseError(
                f"plug-in {point.name!r} of {group} is there twice: {found[point.name].value} and {point.value}; "
                "uninstall one"
            )
        found[point.name] = point
    return MappingProxyType(found)
