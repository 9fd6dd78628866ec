"""How much work will be asked for, and how much may not be dropped yet."""

import math

from posthouse.domain.load import Demand

SURPRISE = 2.0
"""Standard deviations by which the short mean must be above the long one to be more than chance: once in 44 looks it is
by chance alone. Without, the higher one of two noisy means, held, would stand for a load that nobody asks for."""


def predicted_load(demand: Demand) -> float:
    """Work per second to prepare for: the mean of the last minute, or of the last `recent_s` where that is a surprise.

    Persistence. On public traces of language-model traffic the last value predicts the next ten minutes better than
    any season does; rising at once and falling slowly is what the short window adds. Of that only what chance cannot
    explain counts, by the variance between single seconds.
    """
    chance = SURPRISE * math.sqrt(demand.variance / demand.recent_s)
    return max(demand.rate, demand.recent_rate - chance)


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
