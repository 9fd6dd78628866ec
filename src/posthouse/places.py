"""Who keeps a connection, and who goes, when there are too many connections or too many bytes that nobody has proven.

Each address has a share. From the address with the most goes the one that has been silent longest and never showed a
good key; so one address takes no place from another, and who shows a key keeps its place.
"""

from collections.abc import Hashable
from functools import lru_cache
from ipaddress import IPv6Address, ip_network
from typing import Final, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

MAX_UNPROVEN_BYTES: Final = 64 * 2**20
"""Most bytes of requests that have not arrived in full, of callers who have shown no good key."""
MAX_UNPROVEN_BYTES_EACH: Final = MAX_UNPROVEN_BYTES // 4
"""The same, from one address."""


@lru_cache(maxsize=10_000)
def place(address: str) -> str:
    """The key under which an address is counted: of IPv6 its /64, as a host has a whole one."""
    if ":" not in address:
        return address
    try:
        mapped = IPv6Address(address).ipv4_mapped
        return str(mapped or ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address


class _Place(Generic[T]):
    """The connections of one address."""

    __slots__ = ("connections", "held", "held_bytes", "unproven")

    def __init__(self) -> None:
        self.connections = 0
        """How many it has in all."""
        self.unproven: dict[T, None] = {}
        """The one that has been silent longest comes first."""
        self.held: dict[T, int] = {}
        """What each holds of a request that has not arrived in full, in bytes; the oldest first."""
        self.held_bytes = 0


class Places(Generic[T]):
    """The connections of a server. Every call takes the same short time, but for those in which bytes are too many."""

    def __init__(self, most: int, largest_bytes: int = 0) -> None:
        """`largest_bytes`: a request that large may come, whatever the bounds of others."""
        self.most = most
        """How many connections there may be."""
        self._largest_bytes = largest_bytes
        self.held_bytes = 0
        self._place_of: dict[T, str] = {}
        self._places: dict[str, _Place[T]] = {}
        self._by_count: dict[int, dict[str, None]] = {}
        """Addresses by how many unproven connections they have."""
        self._highest = 0

    def __len__(self) -> int:
        return len(self._place_of)

    def add(self, who: T, address: str) -> T | None:
        """Adds a new connection. Returns, and forgets, the one that has to go: None while there is room, `who` itself
        where every other has shown a good key."""
        name = self._place_of[who] = place(address)
        found = self._places.setdefault(name, _Place())
        found.connections += 1
        found.unproven[who] = None
        self._count(name, +1)
        if len(self._place_of) <= self.most:
            return None
        fullest = next(iter(self._by_count[self._highest]))
        goes = next(iter(self._places[fullest].unproven))
        self.remove(goes)
        return goes

    def answered(self, who: T) -> None:
        """It was answered: of the unproven it is the last one to go."""
        found = self._of(who)
        unproven = found.unproven if found else {}
        if who in unproven:
            del unproven[who]
            unproven[who] = None

    def prove(self, who: T) -> None:
        """It has shown a good key, and never has to go."""
        found = self._of(who)
        self.release(who)
        if found and who in found.unproven:
            del found.unproven[who]
            self._count(self._place_of[who], -1)

    def hold(self, who: T, size: int) -> list[T]:
        """Counts what has come of its request, in bytes. Returns those that have to go, so that all keep the bounds."""
        found = self._of(who)
        if found is None:
            return []
        found.held[who] = found.held.get(who, 0) + size
        found.held_bytes += size
        self.held_bytes += size
        gone = []
        while found.held_bytes > max(MAX_UNPROVEN_BYTES_EACH, self._largest_bytes):
            gone.append(self._drop_oldest(found))
        while self.held_bytes > max(MAX_UNPROVEN_BYTES, self._largest_bytes):
            gone.append(self._drop_oldest(max(self._places.values(), key=lambda each: each.held_bytes)))
        return gone

    def release(self, who: T) -> None:
        """Its request has arrived, or it shows a good key: nothing that it holds counts any more."""
        found = self._of(who)
        if found and who in found.held:
            size = found.held.pop(who)
            found.held_bytes -= size
            self.held_bytes -= size

    def remove(self, who: T) -> None:
        """It has gone."""
        if who in self._place_of:
            self.prove(who)
            name = self._place_of.pop(who)
            found = self._places[name]
            found.connections -= 1
            if not found.connections:
                del self._places[name]

    def _of(self, who: T) -> _Place[T] | None:
        """Its address; None where it has gone."""
        name = self._place_of.get(who)
        return None if name is None else self._places[name]

    def _drop_oldest(self, found: _Place[T]) -> T:
        who = next(iter(found.held))
        self.release(who)
        return who

    def _count(self, name: str, by: int) -> None:
        """Notes that so many unproven connections of an address came or went."""
        count = len(self._places[name].unproven)
        before = self._by_count.get(count - by, {})
        before.pop(name, None)
        if not before:
            self._by_count.pop(count - by, None)
        if count:
            self._by_count.setdefault(count, {})[name] = None
        if count > self._highest or self._highest not in self._by_count:
            self._highest = count
