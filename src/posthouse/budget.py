"""How much money may still be spent: caps by the hour, and by the calendar day and month in UTC.

A cap of a day or a month is held as one by the hour. What is left is reserved for the next `RESERVED_S` of what runs:
so much that most of it can drain before nothing is left. So what runs may cost an hour at most what is left, divided by
that time; near the end the dearest drains, then the next. What drains has `END_S` of that for its end: when no more is
left for it, it is ended with its requests. Units: seconds since the epoch, US dollars, dollars per hour.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

from posthouse.domain.offer import SECONDS_PER_HOUR
from posthouse.domain.worker import Worker

RESERVED_S: Final = 900.0
"""For how long what runs has its money reserved: enough for most drains."""
SHORT_S: Final = 60.0
"""How long it takes to end a machine."""
END_S: Final = 4 * SHORT_S
"""For how long draining workers have their money reserved: enough where many end in turn, and prices double."""
WARN_SHARE: Final = 0.8
"""Of a cap: when a warning is given."""
DAY_S: Final = 86_400.0
KINDS: Final = ("day", "month")


class Caps(Protocol):
    """Caps on spending; None is no cap."""

    @property
    def max_usd_h(self) -> float | None: ...
    @property
    def max_usd_day(self) -> float | None: ...
    @property
    def max_usd_month(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Period:
    """A calendar day or month."""

    began_at: float
    before_usd: float
    """What had been spent in all when it began."""


@dataclass(frozen=True, slots=True)
class Left:
    """What a cap leaves."""

    name: str
    """Of the parameter or setting."""
    limit: float
    used: float
    """Spent in the period, or per hour now."""
    usd_h: float
    """What all that runs may cost per hour."""
    end_usd_h: float
    """The same with what drains."""
    ends_at: float
    """Of the period; 0 for a cap by the hour."""
    committed_usd_h: float
    """What all that runs may come to cost per hour."""

    @property
    def warns(self) -> bool:
        """True if most of it is used."""
        return self.used >= WARN_SHARE * self.limit

    @property
    def level(self) -> str:
        """`ok`, `warn`, `full` where nothing more may be started, or `drain` where something has to go."""
        if self.committed_usd_h > self.usd_h * (1 + 1e-9):
            return "drain"
        return "full" if self.committed_usd_h >= self.usd_h * (1 - 1e-9) else "warn" if self.warns else "ok"

    def text(self) -> str:
        """The cap and what is left, for people."""
        unit = "/h" if not self.ends_at else ""
        until = f" until {datetime.fromtimestamp(self.ends_at, UTC):%Y-%m-%d %H:%M} UTC" if self.ends_at else ""
        left = max(0.0, self.limit - self.used)
        return f"{self.name} {self.limit:g}: ${self.used:.2f}{unit} used, ${left:.2f}{unit} left{until}"


@dataclass(slots=True)
class Budget:
    """What one payer has spent in the present day and month: an endpoint, or the installation."""

    periods: dict[str, Period] = field(default_factory=dict)

    def due(self, now: float) -> list[tuple[str, float]]:
        """The periods that have begun and are not known here, with their beginnings."""
        begun = [(kind, began(kind, now)[0]) for kind in KINDS]
        return [(kind, at) for kind, at in begun if kind not in self.periods or self.periods[kind].began_at < at]

    def begin(self, kind: str, at: float, before_usd: float) -> None:
        """A period has begun when `before_usd` had been spent in all."""
        self.periods[kind] = Period(at, before_usd)

    def left(self, caps: Caps, now: float, spent_usd: float, usd_h: float) -> Iterator[Left]:
        """What each cap leaves of which there is one, where `spent_usd` was spent in all and `usd_h` is committed."""
        if caps.max_usd_h is not None:
            yield Left("max_usd_h", caps.max_usd_h, usd_h, caps.max_usd_h, math.inf, 0.0, usd_h)
        for kind, limit in (("day", caps.max_usd_day), ("month", caps.max_usd_month)):
            if limit is not None and kind in self.periods:
                ends_at = began(kind, now)[1]
                used = max(0.0, spent_usd - self.periods[kind].before_usd)
                left_s = ends_at - now
                left_usd_s = max(0.0, limit - used) * SECONDS_PER_HOUR
                next_usd_h = limit * SECONDS_PER_HOUR / RESERVED_S  # what runs goes on into the next period
                runs_usd_h = min(next_usd_h, left_usd_s / max(END_S, min(RESERVED_S, left_s)))
                end_usd_h = left_usd_s / min(END_S, left_s + SHORT_S)
                yield Left(f"max_usd_{kind}", limit, used, runs_usd_h, end_usd_h, ends_at, usd_h)


def began(kind: str, now: float) -> tuple[float, float]:
    """When the present day or month began, and when it ends."""
    day_at = now // DAY_S * DAY_S
    if kind == "day":
        return day_at, day_at + DAY_S
    today = datetime.fromtimestamp(day_at, UTC)
    first = today.replace(day=1)
    following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return first.timestamp(), following.timestamp()


def spent_before(workers: Iterable[Worker], gone_usd: float, at: float) -> float:
    """What these workers and those that are gone had spent at a time not long ago.

    Exact but for workers whose state has begun since: of these it is the least that it can be.
    """

    def one(worker: Worker) -> float:
        if worker.since <= at:
            return worker.spent_at(at)
        return max(0.0, worker.spent_usd - worker.price.running_usd_h * (worker.since - at) / SECONDS_PER_HOUR)

    return gone_usd + sum(map(one, workers))
