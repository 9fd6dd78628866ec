"""The load of an endpoint: the work of the last minutes, and how long a request takes by itself."""

from collections import deque

from posthouse.domain.demand import Demand
from posthouse.fleet.claims import Claims
from posthouse.fleet.ledger import Ledger
from posthouse.policy.tuning import TUNING

SERVICE_RANK = 0.1
"""Which of the latest requests in order of time: few enough are faster that some that failed at once, and say they did
well, do not matter; too low an estimate only means that more counts as queue."""


class Window:
    """Sums of each of the last `span_s` seconds, of amounts and of their squares; the present one comes last."""

    def __init__(self, span_s: int, now: float) -> None:
        self._sums, self._squares, self._last = [0.0] * span_s, [0.0] * span_s, span_s - 1
        self._second = self._began = int(now)

    def known_s(self, now: float) -> int:
        """For how many seconds it has counted, the present one included."""
        return int(now) - self._began + 1

    def add(self, amount: float, at: float) -> None:
        """Adds an amount of now, or of an earlier second; ignored if that is longer ago than the span."""
        row = self._last
        if not 0.0 <= at - self._second < 1.0:  # nearly always it is
            self._advance(at)
            row += int(at) - self._second
        if row >= 0:
            self._sums[row] += amount
            self._squares[row] += amount * amount

    def rate(self, over_s: int, now: float) -> float:
        """Mean per second over the last `over_s` seconds, the present one included as far as it has come."""
        self._advance(now)
        total = sum(self._sums[-over_s:])
        return total / (over_s - 1 + max(now - self._second, 0.0)) if over_s > 1 else total

    def size(self, over_s: int, now: float) -> float:
        """Mean amount of what came in the last `over_s` seconds, each weighed by itself; 0 if nothing did."""
        self._advance(now)
        total = sum(self._sums[-over_s:])
        return sum(self._squares[-over_s:]) / total if total else 0.0

    def variance(self, block_s: int, latest: int, now: float) -> float:
        """Of the sums of blocks of `block_s` seconds but the `latest` ones, the present included; they begin at whole
        multiples of `block_s`."""
        self._advance(now)
        end = len(self._sums) - (self._second % block_s + 1) - (latest - 1) * block_s
        blocks = [sum(self._sums[at : at + block_s]) for at in range(end % block_s, end, block_s)]
        mean = sum(blocks) / len(blocks)
        return sum([(block - mean) ** 2 for block in blocks]) / len(blocks)

    def _advance(self, now: float) -> None:
        passed = min(int(now) - self._second, len(self._sums))
        if passed > 0:
            self._sums = self._sums[passed:] + [0.0] * passed
            self._squares = self._squares[passed:] + [0.0] * passed
            self._second = int(now)


class Load:
    """The work that was offered, each request once, and what the latest requests took."""

    def __init__(self, now: float) -> None:
        self.service_s = self.slot_unit_s = 0.0
        """How long a request takes; and a unit of its work, by which the slots of workers are counted."""
        self.offered = Window(TUNING.long_window_s, now)
        """Work of new requests."""
        self._took: deque[tuple[float, float]] = deque(maxlen=TUNING.samples)  # s for each unit of work, s
        self._took_alone: deque[tuple[float, float]] = deque(maxlen=TUNING.samples)

    def served(self, cost: float, took_s: float, alone: bool) -> None:
        """A request of some cost was done. `alone`: it came to an idle worker; others show only that it is no more."""
        took = took_s / cost, took_s
        self._took.append(took)
        if alone:
            self._took_alone.append(took)

    def learn(self, work: float, count: int) -> bool:
        """Estimates from what is open how long a request takes; True if that is another number of slots by now.

        Never longer than any took, so that tiny costs do not hide a queue of large ones.
        """
        if work <= 0 or not self._took_alone:
            return False
        unit_s = min(sorted(took)[int(SERVICE_RANK * len(took))][0] for took in (self._took, self._took_alone))
        self.service_s = min(unit_s * work / count, max(took_s for _, took_s in self._took_alone))
        unit_s = self.service_s * count / work
        changed = abs(unit_s - self.slot_unit_s) > TUNING.tolerance * self.slot_unit_s
        if changed:
            self.slot_unit_s = unit_s
        return changed

    def demand(self, ledger: Ledger, claims: Claims, queued: float, last_request_at: float, now: float) -> Demand:
        """What is asked now. `queued`: outstanding work that is not in service yet; see `Demand` for the others."""
        recent_s = int(min(TUNING.window_s, max(TUNING.recent_s, self.service_s)))
        # After a restart the minutes before it are not known: they are no minutes without load.
        long_s = min(TUNING.long_window_s, max(TUNING.window_s, self.offered.known_s(now)))
        return Demand(
            cost=self.offered.size(long_s, now),
            rate=self.offered.rate(TUNING.window_s, now),
            long_rate=self.offered.rate(long_s, now),
            recent_rate=self.offered.rate(recent_s, now),
            recent_s=recent_s,
            variance=self.offered.variance(TUNING.recent_s, TUNING.window_s // TUNING.recent_s, now) / TUNING.recent_s,
            waiting=sum([claims.load(r.cost) for r in ledger.waiting.values()]),
            waiting_count=len(ledger.waiting),
            outstanding=ledger.outstanding(),
            outstanding_count=len(ledger) - len(ledger.waiting),
            queued=queued,
            service_s=self.service_s,
            oldest_wait_s=now - min([r.first_at for r in ledger.waiting.values()], default=now),
            last_request_at=last_request_at,
            factor=claims.factor,
        )
