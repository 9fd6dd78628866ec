"""Virtual time, and what the parts of a world ask of one another."""

import math
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any, Self

from posthouse.fleet.controller import Controller
from posthouse.fleet.events import Event
from posthouse.sim.audit import Auditor
from posthouse.sim.instance import SimInstance

START_AT = 1_700_000_000.0
"""When the world begins, as an epoch."""


class Timeline:
    """A heap of what is to happen. Units: seconds since the start for what is shown (`t`), epoch seconds inside."""

    fleet: Controller
    audit: Auditor
    down = False
    """The server is away."""

    def __init__(self, seed: int, log: Callable[[str], object] | None) -> None:
        """`log`: takes a line for everything that happens."""
        self.now = START_AT
        self.instances: dict[str, SimInstance] = {}
        self._random = Random(f"{seed}/clients")
        self._chance = Random(f"{seed}/market")
        self._events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = count()
        self._log = log

    @property
    def t(self) -> float:
        return self.now - START_AT

    def after(self, span_s: float, do: Callable[..., object], *args: Any) -> None:
        """Has `do` happen `span_s` from now; never if that is infinite."""
        if span_s < math.inf:
            heappush(self._events, (self.now + span_s, next(self._order), do, args))

    def run(self, until_t: float) -> Self:
        """Lets time pass up to and with `until_t`. Raises: BrokenRule as soon as one is."""
        events, until_at, check = self._events, START_AT + until_t, self.audit.check
        while events and events[0][0] <= until_at:
            self.now, _, do, args = heappop(events)
            do(*args)
            check(self.now)
        self.now = until_at
        return self

    def happened(self, *words: object) -> None:
        """Notes a line in the log."""
        if self._log is not None:
            self._log(" ".join((f"{self.t:.3f}", *map(str, words))))

    def tell(self, event: Event) -> None:
        """Tells the controller what happened, and does what it asks for."""
        raise NotImplementedError
