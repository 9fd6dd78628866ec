"""How often the market may be called: a least interval for each call and identity, as it documents them."""

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Final

INTERVAL_S: Final = {
    "show": 2.0,
    "list": 1.0,
    "manage": 1.0,
    "execute": 1.5,
    "destroy": 3.0,
    "create": 4.5,
    "template": 2.0,
}
PENALTY_S: Final = {"create": 12.0}
"""After a call that came too soon, the next one may come so much later."""
SEARCHES, SEARCH_S = 10, 60.0
"""So many searches in so many seconds."""
DAY_S: Final = 86_400.0


@dataclass(slots=True)
class Denied:
    """Why a call is not answered now."""

    threshold_s: float
    reset_at: float = 0.0
    """When the day's quota is full again; 0 where it is not about that."""


@dataclass(slots=True)
class Limits:
    """The calls of each identity."""

    _free_at: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    _searches: defaultdict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))
    _today: defaultdict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))

    def denied(self, call: str, who: str, now: float, scale: float, searches_per_day: int) -> Denied | None:
        """Why this call is refused; None, and it counts, if it is not. `scale`: of the intervals."""
        if call == "search":
            return self._search_denied(who, now, scale, searches_per_day)
        interval_s = INTERVAL_S.get(call, 0.0) * scale
        if now < self._free_at[call, who]:
            if call in PENALTY_S:
                self._free_at[call, who] = now + PENALTY_S[call] * scale
            return Denied(interval_s)
        self._free_at[call, who] = now + interval_s
        return None

    def _search_denied(self, who: str, now: float, scale: float, searches_per_day: int) -> Denied | None:
        day = int(now // DAY_S)
        if searches_per_day and self._today[who, day] >= searches_per_day:
            return Denied(0.0, (day + 1) * DAY_S)
        latest = self._searches[who]
        while latest and latest[0] <= now - SEARCH_S * scale:
            latest.popleft()
        if scale and len(latest) >= SEARCHES:
            return Denied(SEARCH_S / SEARCHES * scale)
        latest.append(now)
        self._today[who, day] += 1
        return None
