"""How much work will be asked for, and how much may not be dropped yet."""

import math

from posthouse.domain.load import Demand

MINUTE_S, HOUR_S = 60, 3600.0
CHANCE, SURPRISE = 1.0, 4.0
"""Standard deviations within which the mean of a minute says nothing new, and beyond which that of the last seconds is
more than chance. Costs are skewed, and there is a look each second: with three a small fleet would pay for a worker
more much of the time. Without, the highest of noisy means, held, would stand for a load that nobody asks for."""


def predicted_load(demand: Demand) -> float:
    """Work per second to prepare for: the mean of five minutes, as far as later ones do not contradict it.

    Persistence. On public traces of language-model traffic the last value predicts the next ten minutes better than
    any season does. What a minute, and the last `recent_s`, show counts as far as chance does not explain it, by the
    variance before that minute.
    """
    if demand.rate == 0.0:
        return 0.0  # a minute of silence is an end, whatever was before
    chance = CHANCE * math.sqrt(demand.variance / MINUTE_S)
    steady = min(max(demand.long_rate, demand.rate - chance), demand.rate + chance)
    return max(steady, demand.recent_rate - SURPRISE * math.sqrt(demand.variance / demand.recent_s))


def slow_mean(before: float, value: float, elapsed_s: float) -> float:
    """The mean that was `before`, `elapsed_s` later: the last hour makes 63 % of it.

    Exponentially weighted, so that no more than this number is remembered. Source: Brown 1956, in continuous time.
    """
    return before + (value - before) * (1 - math.exp(-elapsed_s / HOUR_S))


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
