"""How much work will be asked for, and how much of it may not be forgotten yet."""

import math

from posthouse.domain.load import Demand
from posthouse.policy.tuning import Tuning


def predicted_load(demand: Demand, tuning: Tuning) -> float:
    """Work per second to prepare for: a robust mean, and a spike test.

    Chance moves a mean over t seconds by sigmas x sqrt(variance / t). The load is the mean of five minutes, moved into
    that distance of the mean of the last minute; or that of the last `recent_s` less that distance, if it is higher.
    Example: 100 in five minutes, 160 in the last, variance 6,000, so that chance explains 1.5 x sqrt(6000 / 60) = 15:
    145. And 400 in the last 10 s: 400 - 1.5 x sqrt(6000 / 10) = 363.
    Persistence, for on public traces the last value predicts the next ten minutes better than any season does.
    """
    if demand.rate == 0.0:
        return 0.0  # a minute of silence is an end, whatever was before
    chance = tuning.sigmas * math.sqrt(demand.variance / tuning.window_s)
    steady = min(max(demand.long_rate, demand.rate - chance), demand.rate + chance)
    return max(steady, demand.recent_rate - tuning.sigmas * math.sqrt(demand.variance / demand.recent_s))


def slow_mean(before: float, value: float, elapsed_s: float, span_s: float) -> float:
    """The mean that was `before`, `elapsed_s` later: the last `span_s` make 63 % of it.

    Exponentially weighted, so that no more than this number is remembered. Source: Brown 1956, in continuous time.
    """
    return before + (value - before) * (1 - math.exp(-elapsed_s / span_s))


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
