"""How much is asked of an endpoint: the load of the last minutes, and what it comes to together with what is open."""

from posthouse.domain.demand import Demand
from posthouse.fleet.ledger import Ledger
from posthouse.fleet.window import RateWindow
from posthouse.policy.tuning import TUNING


class Meter:
    """The work that was offered, each request once."""

    def __init__(self, now: float) -> None:
        self._offered = RateWindow(TUNING.long_window_s, now)
        self._squares = RateWindow(TUNING.long_window_s, now)  # of costs squared: tells the size of requests by work

    def add(self, cost: float, now: float) -> None:
        """A new request."""
        self._offered.add(cost, now)
        self._squares.add(cost * cost, now)

    def demand(self, ledger: Ledger, queued: float, service_s: float, last_request_at: float, now: float) -> Demand:
        """What is asked now. `queued`: outstanding work that is not in service yet; see `Demand` for the others."""
        oldest_at = ledger.oldest_waiting_at()
        recent_s = int(min(TUNING.window_s, max(TUNING.recent_s, service_s)))
        # After a restart the minutes before it are not known: they are no minutes without load.
        long_s = min(TUNING.long_window_s, max(TUNING.window_s, self._offered.known_s(now)))
        long_rate = self._offered.rate(long_s, now)
        return Demand(
            cost=self._squares.rate(long_s, now) / long_rate if long_rate else 0.0,
            rate=self._offered.rate(TUNING.window_s, now),
            long_rate=long_rate,
            recent_rate=self._offered.rate(recent_s, now),
            recent_s=recent_s,
            variance=self._offered.variance(TUNING.recent_s, TUNING.window_s // TUNING.recent_s, now) / TUNING.recent_s,
            waiting=ledger.waiting_work,
            waiting_count=len(ledger.waiting),
            outstanding=ledger.outstanding(),
            outstanding_count=len(ledger) - len(ledger.waiting),
            queued=queued,
            service_s=service_s,
            oldest_wait_s=0.0 if oldest_at is None else now - oldest_at,
            last_request_at=last_request_at,
        )
