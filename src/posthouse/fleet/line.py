"""The requests that are held open until a worker is free, in the order in which they first came."""

from collections.abc import Callable
from enum import Enum
from heapq import heapify, heappop, heappush

MISSES = 32
"""How many in a row may be kept from every free worker by their failures before looking further is a waste."""
SLACK = 1_000
"""Entries of requests that are held no more, beyond which the heaps are made smaller."""


class Offer(Enum):
    """What became of an offer to the next in line."""

    TAKEN = "taken"
    MISSED = "missed"  # it is kept from the free workers; the next one may not be
    NO_ROOM = "no room"  # for nobody


class Line:
    """Who is held open, since when and until when. Joining and leaving take O(log n)."""

    def __init__(self) -> None:
        self._until: dict[int, float] = {}
        self._order: list[tuple[float, int]] = []  # (first asked at, index); also of some that are held no more
        self._ordered: set[int] = set()
        self._ends: list[tuple[float, int]] = []  # (until, index); also of some that are held no more

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, idx: int) -> bool:
        return idx in self._until

    def join(self, idx: int, first_at: float, until: float) -> None:
        """Holds a request until then; one that was held before gets this end instead."""
        self._until[idx] = until
        heappush(self._ends, (until, idx))
        if idx not in self._ordered:
            self._ordered.add(idx)
            heappush(self._order, (first_at, idx))
        if len(self._ends) > 2 * len(self._until) + SLACK:
            self._ends = [(until, idx) for idx, until in self._until.items()]
            heapify(self._ends)
        if len(self._order) > 2 * len(self._until) + SLACK:
            self._order = [entry for entry in self._order if entry[1] in self._until]
            self._ordered = {idx for _, idx in self._order}
            heapify(self._order)

    def leave(self, idx: int) -> None:
        """Holds a request no more."""
        self._until.pop(idx, None)

    def offer(self, give: Callable[[int], Offer]) -> None:
        """Offers what is free to one after the other; who takes it leaves the line."""
        missed: list[tuple[float, int]] = []
        while self._order and len(missed) < MISSES:
            entry = heappop(self._order)
            idx = entry[1]
            if idx not in self._until:
                self._ordered.discard(idx)
                continue
            outcome = give(idx)
            if outcome is Offer.TAKEN:
                self._ordered.discard(idx)
                self._until.pop(idx, None)
                continue
            missed.append(entry)
            if outcome is Offer.NO_ROOM:
                break
        for entry in missed:
            heappush(self._order, entry)

    def next_end(self) -> float | None:
        """When the next one has been held long enough; None if nobody is held."""
        while self._ends and self._until.get(self._ends[0][1]) != self._ends[0][0]:
            heappop(self._ends)
        return self._ends[0][0] if self._ends else None

    def over(self, now: float) -> list[int]:
        """Those that have been held long enough; they leave the line."""
        over = []
        while (end := self.next_end()) is not None and end <= now:
            idx = heappop(self._ends)[1]
            del self._until[idx]
            over.append(idx)
        return over

    def clear(self) -> list[int]:
        """Everybody, in no order; they leave the line."""
        everybody = list(self._until)
        self.__init__()  # type: ignore[misc]
        return everybody
