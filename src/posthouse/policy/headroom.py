"""How much more capacity than load it takes so that few requests wait long. Queueing theory, in slots.

A slot serves one request at a time; a worker has one or more. Units: seconds; `busy` and `slots` are numbers of slots,
not necessarily whole.
"""

import math

WIDEST = 12.0  # standard deviations of the load beyond which more slots make no difference


def share_waiting(busy: float, slots: float, max_wait: float, burstiness: float) -> float:
    """Share of requests that wait longer than `max_wait` service times, where `busy` slots are in use in the mean.

    P(W > t) = C exp(-(slots - busy) t / z), with C = 1 / (1 + b Phi(b) / phi(b)) and b = (slots - busy) / sqrt(z busy).
    `burstiness` z: variance over mean of how many requests are in service if none waits; 1 for random arrivals.
    Source: Halfin and Whitt 1981 for C, Allen-Cunneen for general traffic.
    """
    spare = slots - busy
    if spare <= 0.0:
        return 1.0
    if busy <= 0.0:
        return 0.0
    b = spare / math.sqrt(busy * burstiness)
    if b > WIDEST:
        return 0.0
    density = math.exp(-b * b / 2) / math.sqrt(2 * math.pi)
    below = (1 + math.erf(b / math.sqrt(2))) / 2
    return math.exp(-spare * max_wait / burstiness) / (1 + b * below / density)


def slots_for(busy: float, max_wait: float, burstiness: float, share: float) -> float:
    """The fewest slots with which at most `share` of requests wait longer than `max_wait` service times."""
    low, high = busy, busy + WIDEST * math.sqrt(max(busy, 1.0) * burstiness)
    for _ in range(24):  # to a ten-millionth of the way
        middle = (low + high) / 2
        if share_waiting(busy, middle, max_wait, burstiness) <= share:
            high = middle
        else:
            low = middle
    return high
