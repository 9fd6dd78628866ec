"""How much work will be asked for, and how much of it may not be forgotten yet."""

import math

from posthouse.domain.demand import Demand
from posthouse.policy.tuning import Tuning


def predicted_load(demand: Demand, tuning: Tuning) -> float:
    """Work per second to prepare for: a robust mean, and a spike test.

    By chance a minute brings `sigmas` x sqrt(60 x variance) more or less work than the mean says. The load is the mean
    of five minutes, moved to within that of the mean of the last minute; or, if it is higher, the mean of the last
    `recent_s` less that much work. Example: 100 work/s in five minutes, 160 in the last, variance 6,000. Chance is
    1.5 x sqrt(60 x 6000) = 900 work, 15 work/s in a minute and 90 work/s in 10 s: the load is 145. With 400
    work/s in the last 10 s it is 310. Persistence, for on public traces the last value foretells ten minutes better
    than seasons do.
    """
    if demand.rate == 0.0:
        return 0.0  # a minute of silence is an end, whatever was before
    chance = tuning.sigmas * math.sqrt(tuning.window_s * demand.variance)
    a_minute, recently = chance / tuning.window_s, chance / demand.recent_s
    steady = min(max(demand.long_rate, demand.rate - a_minute), demand.rate + a_minute)
    return max(steady, demand.recent_rate - recently)


def sliding_max(
    history: tuple[tuple[float, float], ...], now: float, value: float, hold_s: float
) -> tuple[tuple[float, float], ...]:
    """The history with (`now`, `value`) added, for a maximum over the last `hold_s` seconds: its first entry.

    Kept strictly decreasing in value: an entry below a newer one can never be the maximum again. Times within a
    hundredth of the hold share one entry, so that the history never grows beyond about a hundred.
    """
    kept = [(at, v) for at, v in history if at > now - hold_s and v > value]
    if kept and now - kept[-1][0] < hold_s / 100:
        return tuple(kept)  # the one before is as good as new, and higher
    return (*kept, (now, value))
