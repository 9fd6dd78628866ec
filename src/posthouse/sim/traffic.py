"""What clients ask for, and when: shapes made up, drawn as a Poisson process.

Traffic is an iterator of (seconds from the start, work) in order of time. Units: seconds; work; work per second.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

Arrival = tuple[float, float]
"""(seconds from the start, work)"""
Load = Callable[[float], float]
"""Offered work per second at a time."""


@dataclass(frozen=True, slots=True)
class Costs:
    """How much work one request is: log-normal about a mean."""

    mean: float = 100.0
    spread: float = 0.0
    """Standard deviation of the logarithm; 0: every request is the same."""

    def draw(self, random: Random) -> float:
        if self.spread == 0:
            return self.mean
        return self.mean * math.exp(random.gauss(-0.5 * self.spread**2, self.spread))


def constant(load: float) -> Load:
    return lambda t: load


def step(low: float, high: float, at_s: float) -> Load:
    """`low` before `at_s`, `high` from then on."""
    return lambda t: low if t < at_s else high


def diurnal(low: float, high: float, period_s: float) -> Load:
    """A sine between `low` (at the start) and `high`."""
    return lambda t: low + (high - low) * 0.5 * (1 - math.cos(2 * math.pi * t / period_s))


def burst(low: float, high: float, period_s: float, length_s: float) -> Load:
    """`high` for the last `length_s` of each period, else `low`."""
    return lambda t: high if t % period_s >= period_s - length_s else low


def on_off(high: float, period_s: float) -> Load:
    """`high` for the first half of each period, nothing for the second."""
    return lambda t: high if t % period_s < period_s / 2 else 0.0


def poisson(load: Load, highest: float, costs: Costs, span_s: float, random: Random) -> Iterator[Arrival]:
    """Arrivals of a Poisson process whose rate follows `load`, which is never above `highest`.

    Source: thinning, Lewis and Shedler 1979.
    """
    rate = highest / costs.mean
    t = 0.0
    while rate > 0:
        t += random.expovariate(rate)
        if t >= span_s:
            return
        if random.random() * highest < load(t):
            yield t, costs.draw(random)
